"""The conditional flow: it can be inverted, and its log-determinant is what autograd says."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from knnspect.detectors.heads.networks.flow import ConditionalFlow, encode_positions
from knnspect.errors import ParameterError

GRID = (5, 7)


def make(n_channels: int, coupling_blocks: int = 3, seed: int = 0) -> ConditionalFlow:
    """A flow with weights as after training: far from those at the beginning."""
    torch.manual_seed(seed)
    flow = ConditionalFlow(n_channels, GRID, coupling_blocks)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flow


def some(n_channels: int, n_cells: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(n_cells, n_channels), torch.randint(0, 35, (n_cells,))


class TestEncoding:
    def test_is_that_of_the_paper(self) -> None:
        encoded = encode_positions(9, 64)
        assert encoded.shape == (9, 64)
        for place, channel in ((0, 0), (3, 10), (8, 31)):
            angle = place / 1e4 ** (2 * channel / 64)
            assert encoded[place, 2 * channel] == pytest.approx(math.sin(angle), abs=1e-6)
            assert encoded[place, 2 * channel + 1] == pytest.approx(math.cos(angle), abs=1e-6)

    def test_differs_from_place_to_place(self) -> None:
        assert torch.cdist(encode_positions(300), encode_positions(300)).fill_diagonal_(9).min() > 1


@pytest.mark.parametrize("n_channels", [2, 3, 8, 24, 41])
class TestTransform:
    def test_can_be_inverted(self, n_channels: int) -> None:
        flow, (features, cells) = make(n_channels), some(n_channels)
        with torch.no_grad():
            transform = flow.transform(cells)
            z = transform(features)
            torch.testing.assert_close(transform.inv(z), features, rtol=1e-4, atol=1e-4)
        assert (z - features).abs().max() > 0.1

    def test_log_determinant_is_that_of_autograd(self, n_channels: int) -> None:
        flow, (features, cells) = make(n_channels).double(), some(n_channels, 4)
        features = features.double()
        _, log_det = flow.transform(cells).call_and_ladj(features)
        for index in range(len(features)):
            transform = flow.transform(cells[index : index + 1])
            jacobian = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
                lambda x, t=transform: t(x[None])[0], features[index]
            )
            expected = torch.linalg.slogdet(jacobian)[1]
            # Rotations are made in float32, and are rotations to its precision.
            torch.testing.assert_close(log_det[index], expected, rtol=1e-5, atol=1e-5)

    def test_likelihood_is_the_density_of_what_the_flow_makes_of_normal_numbers(
        self, n_channels: int
    ) -> None:
        flow, (z, cells) = make(n_channels), some(n_channels)
        with torch.no_grad():
            transform = flow.transform(cells)
            features = transform.inv(z)
            base = MultivariateNormal(torch.zeros(n_channels), torch.eye(n_channels))
            density = base.log_prob(z)  # type: ignore[no-untyped-call]
            expected = density - transform.inv.log_abs_det_jacobian(z, features)
            found = flow.log_likelihood(features, cells)
        torch.testing.assert_close(found * n_channels, expected, rtol=1e-3, atol=1e-3)

    def test_stays_in_float32_in_mixed_precision(self, n_channels: int) -> None:
        flow, (features, cells) = make(n_channels), some(n_channels)
        with torch.autocast("cpu", torch.bfloat16):
            z, log_det = flow.transform(cells).call_and_ladj(features)
            found = flow.log_likelihood(features, cells)
        assert z.dtype == log_det.dtype == torch.float32
        found.sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            expected = flow.log_likelihood(features, cells)
        torch.testing.assert_close(found.detach(), expected, rtol=0.05, atol=0.05)

    def test_depends_on_the_cell(self, n_channels: int) -> None:
        flow, (features, _) = make(n_channels), some(n_channels, 1)
        with torch.no_grad():
            found = flow.log_likelihood(features.expand(35, -1), torch.arange(35))
        assert len(set(found.tolist())) == 35

    def test_prepared_is_the_same_for_whole_levels(self, n_channels: int) -> None:
        flow, (features, _) = make(n_channels), some(n_channels, 35)
        with torch.no_grad():
            expected = flow.log_likelihood(features, torch.arange(35))
        prepared = flow.prepared()
        found = prepared.log_likelihood(features.T.contiguous())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(prepared.log_likelihood(features.T.contiguous()), found)

    @pytest.mark.parametrize("size", [1e3, 1e6, 1e15, 1e30])
    def test_is_finite_for_large_features(self, n_channels: int, size: float) -> None:
        flow, (features, _) = make(n_channels), some(n_channels, 35)
        features *= size
        found = flow.prepared().log_likelihood(features.T.contiguous())
        with torch.no_grad():
            trained = flow.log_likelihood(features, torch.arange(35))
        for values in (found, trained):
            assert values.isfinite().all()
            assert (values < -size / 10).all()


def test_is_the_identity_but_for_rotations_at_the_beginning() -> None:
    torch.manual_seed(0)
    flow, (features, cells) = ConditionalFlow(24, GRID, 4), some(24)
    with torch.no_grad():
        z, log_det = flow.transform(cells).call_and_ladj(features)
    torch.testing.assert_close(z.norm(dim=1), features.norm(dim=1), rtol=0.25, atol=0)
    assert log_det.abs().max() < 3


def test_learns_that_cells_differ() -> None:
    """Features near 3 in the left half and near -3 in the right are likely there alone."""
    torch.manual_seed(0)
    flow = ConditionalFlow(2, (4, 4), 4)
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
    cells = torch.arange(16).repeat(40)
    mean = torch.where(cells % 4 < 2, 3.0, -3.0)[:, None]
    for _ in range(300):
        loss = -flow.log_likelihood(mean + torch.randn(len(cells), 2), cells).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        here = flow.log_likelihood(torch.full((16, 2), 3.0), torch.arange(16)).reshape(4, 4)
    entropy = 0.5 * (1 + math.log(2 * math.pi))
    assert float(loss.detach()) == pytest.approx(entropy, abs=0.25)
    assert float(here[:, :2].min() - here[:, 2:].max()) > 3


def test_a_single_channel_is_refused() -> None:
    with pytest.raises(ParameterError, match="at least 2 channels"):
        ConditionalFlow(1, GRID, 2)
