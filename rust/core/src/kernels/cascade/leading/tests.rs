//! Tests of the module above.

use super::*;
use crate::bounds::leading_directions;
use crate::pyramid::{LevelData, PyramidContext, PyramidShape, Upsample, upsample_into};

const SHAPES: [(usize, usize, usize); 3] = [(8, 8, 12), (4, 4, 7), (2, 2, 5)];

/// Cells of four patterns, and a little of everything else.
fn image(seed: u32, little: f32) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let level = |&(height, width, channels): &(usize, usize, usize)| {
        let mut values = Vec::new();
        for _ in 0..height * width {
            let weights = [random(), random(), random(), random()];
            for channel in 0..channels {
                let pattern = |n: usize| ((n + 1) * (channel + 2)) as f32;
                let known = weights
                    .iter()
                    .enumerate()
                    .map(|(n, w)| w * pattern(n).sin());
                values.push(known.sum::<f32>() + little * random());
            }
        }
        values
    };
    SHAPES.iter().map(level).collect()
}

/// The largest norm of a cell of each level.
fn max_norms(levels: &[Vec<f32>]) -> Vec<f32> {
    let norm = |cell: &[f32]| cell.iter().map(|v| v * v).sum::<f32>().sqrt();
    let levels = levels.iter().zip(SHAPES);
    levels
        .map(|(level, shape)| level.chunks_exact(shape.2).map(norm).fold(0.0, f32::max))
        .collect()
}

fn leading(
    set: InstructionSet,
    grids: &[LevelGrid],
    levels: &[Vec<f32>],
    directions: &LeadingDirections,
) -> LeadingCoordinates {
    let data: Vec<_> = levels.iter().map(|level| LevelData::F32(level)).collect();
    let means: Vec<_> = SHAPES.iter().map(|shape| vec![0.0; shape.2]).collect();
    let centred_image = CentredImage {
        levels: &data,
        means: &means,
        scale: 1.0,
    };
    LeadingCoordinates::of(set, grids, centred_image, directions, &max_norms(levels))
}

/// Upsampled features of all fine cells, by levels.
fn features(grids: &[LevelGrid], levels: &[Vec<f32>]) -> Vec<Vec<Vec<f64>>> {
    let data: Vec<_> = levels.iter().map(|level| LevelData::F32(level)).collect();
    let feature = |cell| {
        let mut all = Vec::new();
        upsample_into(grids, &data, cell, &mut all);
        let mut rest = &all[..];
        let level = |shape: &(usize, usize, usize)| {
            let (level, after) = rest.split_at(shape.2);
            rest = after;
            level.to_vec()
        };
        SHAPES.iter().map(level).collect()
    };
    (0..grids[0].shape.cells()).map(feature).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[test]
fn bounds_are_below_what_the_levels_add_and_near_it() {
    let shape = PyramidShape::new(&SHAPES).unwrap();
    let grids = PyramidContext::new(shape, Upsample::Bilinear).grids;
    // A cell with itself meets the bound; nothing else comes as near to it.
    let cases = [(0.0, 2), (1e-4, 2), (0.3, 2), (0.3, 1)];
    for (set, (little, seed)) in InstructionSet::available()
        .into_iter()
        .flat_map(|set| cases.map(|case| (set, case)))
    {
        let (query, gallery) = (image(1, little), image(seed, little));
        let directions = leading_directions(set, &grids, &query);
        let [u_lead, v_lead] =
            [&query, &gallery].map(|levels| leading(set, &grids, levels, &directions));
        let [us, vs] = [&query, &gallery].map(|levels| features(&grids, levels));
        for (p, u) in us.iter().enumerate() {
            for (q, v) in vs.iter().enumerate() {
                let (mut exact, mut norms) = (0.0, 0.0);
                for (u, v) in u.iter().zip(v).take(2) {
                    exact += dot(v, v) - 2.0 * dot(u, v);
                    norms += dot(v, v) + dot(u, u);
                }
                let products = u_lead.values().zip(v_lead.values());
                let products = products.map(|(u, v)| f64::from(u[p]) * f64::from(v[q]));
                let bound = f64::from(v_lead.sq_norms[q]) - 2.0 * products.sum::<f64>();
                assert!(bound <= exact + 1e-6 * norms, "{set:?}: {bound} > {exact}");
                // As near as the patterns explain the cells.
                let tolerance = 2.0 * f64::from(little) + 0.001;
                assert!(
                    bound >= exact - tolerance * norms.max(1.0),
                    "{bound}, {exact}"
                );
            }
        }
    }
}

/// Where next to nothing is left out, rounding decides.
#[test]
fn rests_are_not_below_what_the_coordinates_leave_out() {
    let shape = PyramidShape::new(&SHAPES).unwrap();
    let grids = PyramidContext::new(shape, Upsample::Bilinear).grids;
    for set in InstructionSet::available() {
        let levels = image(3, 1e-4);
        let directions = leading_directions(set, &grids, &levels);
        let found = leading(set, &grids, &levels, &directions);
        let found: Vec<&[f32]> = found.values().collect();
        for (cell, feature) in features(&grids, &levels).iter().enumerate() {
            for level in 0..2 {
                let mut left = feature[level].clone();
                let packed = &directions.packed[level];
                let mut before: Vec<Vec<f64>> = Vec::new();
                for lane in 0..N_DIRECTIONS {
                    let column = packed[lane..].iter().step_by(set.width());
                    let mut direction: Vec<f64> = column.map(|&v| f64::from(v)).collect();
                    for other in &before {
                        let along = dot(&direction, other);
                        let pairs = direction.iter_mut().zip(other);
                        pairs.for_each(|(value, other)| *value -= along * other);
                    }
                    let norm = dot(&direction, &direction).sqrt();
                    for value in &mut direction {
                        *value /= norm;
                    }
                    let along = dot(&left, &direction);
                    let pairs = left.iter_mut().zip(&direction);
                    pairs.for_each(|(value, direction)| *value -= along * direction);
                    before.push(direction);
                }
                let (rest, left) = (
                    found[level * PER_LEVEL + N_DIRECTIONS][cell],
                    dot(&left, &left),
                );
                assert!(
                    f64::from(rest) >= left.sqrt(),
                    "{set:?}: {rest}, {}",
                    left.sqrt()
                );
                assert!(f64::from(rest) <= left.sqrt() + 0.05);
            }
        }
    }
}
