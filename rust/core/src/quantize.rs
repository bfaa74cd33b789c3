//! int8 storage: one byte per value, decoded by a scale and an offset per channel.
//!
//! A value is `offset + scale * code` in float32, with a multiplication and an addition that round
//! one after the other, so that it is the same on every machine. Scale and offset belong to one
//! channel of one level of one image: adding an image never touches another.

/// The codes of one level of one image, and what they stand for.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedLevel<'a> {
    /// One code per value: row, column, channel.
    pub codes: &'a [i8],
    /// What the code 0 of each channel stands for.
    pub offsets: &'a [f32],
    /// How far the values of neighbouring codes of each channel lie apart.
    pub scales: &'a [f32],
}

impl QuantizedLevel<'_> {
    /// The values of one cell.
    #[inline]
    pub(crate) fn cell(&self, cell: usize) -> impl ExactSizeIterator<Item = f32> {
        let channels = self.offsets.len();
        let codes = &self.codes[cell * channels..][..channels];
        let affine = self.offsets.iter().zip(self.scales);
        codes
            .iter()
            .zip(affine)
            .map(|(&code, (&offset, &scale))| decode(offset, scale, code))
    }

    /// Whether every code there is, not only those that occur, stands for a finite value.
    pub(crate) fn are_finite(&self) -> bool {
        let mut affine = self.offsets.iter().zip(self.scales);
        affine.all(|(&offset, &scale)| reaches_finite(offset, scale))
    }
}

/// The value of a code.
#[inline]
fn decode(offset: f32, scale: f32, code: i8) -> f32 {
    offset + scale * f32::from(code)
}

/// Whether all codes stand for finite values; those in between the outermost do if these do.
fn reaches_finite(offset: f32, scale: f32) -> bool {
    decode(offset, scale, i8::MIN).is_finite() && decode(offset, scale, i8::MAX).is_finite()
}

/// What a [`QuantizedLevel`] borrows.
pub(crate) struct Quantized {
    pub codes: Vec<i8>,
    pub offsets: Vec<f32>,
    pub scales: Vec<f32>,
}

/// The codes of finite values, cell by cell, and the offset and the scale of each channel.
///
/// A value gets the code that decodes nearest to it, within half a step; a step is a 255th of what
/// the channel spans, rounded up to what float32 can tell apart at its largest value, so that a
/// constant channel is decoded exactly. Encoding what was decoded gives the same values again, save
/// where values are some hundred times closer to each other than to zero: there steps may shrink.
pub(crate) fn quantize(values: &[f32], channels: usize) -> Quantized {
    let (mut min, mut max) = (
        vec![f32::INFINITY; channels],
        vec![-f32::INFINITY; channels],
    );
    for cell in values.chunks_exact(channels) {
        for ((min, max), &value) in min.iter_mut().zip(&mut max).zip(cell) {
            *min = min.min(value);
            *max = max.max(value);
        }
    }
    let (offsets, scales): (Vec<f32>, Vec<f32>) = min
        .iter()
        .zip(&max)
        .map(|(&min, &max)| offset_and_scale(min, max))
        .unzip();
    let mut codes = Vec::with_capacity(values.len());
    for cell in values.chunks_exact(channels) {
        let affine = offsets.iter().zip(&scales);
        codes.extend(
            cell.iter()
                .zip(affine)
                .map(|(&value, (&offset, &scale))| nearest_code(value, offset, scale)),
        );
    }
    Quantized {
        codes,
        offsets,
        scales,
    }
}

/// An offset and a scale whose codes reach from `min` to `max`.
///
/// Both are multiples of the last bit of the larger of the two, which leaves decoding nothing to
/// round: the values lie on a grid, from which the same offset and scale follow again.
fn offset_and_scale(min: f32, max: f32) -> (f32, f32) {
    const STEPS: f64 = 255.0;
    const SMALLEST: f32 = f32::from_bits(1);
    const EXPONENT: u32 = 0x7f80_0000;
    let largest_power = f32::from_bits(max.max(-min).to_bits() & EXPONENT);
    let unit = (f64::from(largest_power) * f64::from(f32::EPSILON)).max(f64::from(SMALLEST));
    let (min, max) = (f64::from(min), f64::from(max));
    let mut units = ((max - min) / STEPS / unit).ceil();
    loop {
        let scale = units * unit;
        let spare = STEPS * scale - (max - min);
        // The codes that are left over lie towards zero, where they cannot overflow.
        let lowest = if spare < 0.0 {
            min - spare / 2.0
        } else if max > -min {
            min - spare
        } else {
            min
        };
        let offset = (lowest / unit).round() * unit - f64::from(i8::MIN) * scale;
        // Adding 0 leaves no negative zero, whose sign would depend on the order of the values.
        let (offset, scale) = (offset as f32 + 0.0, scale as f32);
        if reaches_finite(offset, scale) {
            return (offset, scale);
        }
        units -= 1.0; // a channel that spans nearly all of float32: some hundred times at most
    }
}

fn nearest_code(value: f32, offset: f32, scale: f32) -> i8 {
    let error = |code: i8| (f64::from(decode(offset, scale, code)) - f64::from(value)).abs();
    // Saturating, and 0 where the scale is 0.
    let guess = ((f64::from(value) - f64::from(offset)) / f64::from(scale)).round() as i8;
    [guess, guess.saturating_sub(1), guess.saturating_add(1)]
        .into_iter()
        .min_by(|&a, &b| error(a).total_cmp(&error(b)))
        .unwrap_or(guess)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn codes(quantized: &Quantized) -> QuantizedLevel<'_> {
        QuantizedLevel {
            codes: &quantized.codes,
            offsets: &quantized.offsets,
            scales: &quantized.scales,
        }
    }

    fn decoded(quantized: &Quantized) -> Vec<f32> {
        let codes = codes(quantized);
        assert!(codes.are_finite());
        let cells = quantized.codes.len() / quantized.offsets.len();
        (0..cells).flat_map(|cell| codes.cell(cell)).collect()
    }

    /// Fails unless every value of the only channel comes back within half a step, and steps are no
    /// longer than they have to be.
    fn check(values: &[f32]) {
        let quantized = quantize(values, 1);
        let step = f64::from(quantized.scales[0]);
        for (value, decoded) in values.iter().zip(decoded(&quantized)) {
            let error = (f64::from(*value) - f64::from(decoded)).abs();
            assert!(
                error <= 0.501 * step, // a little more than half where the scale had to shrink
                "{value:e} became {decoded:e}, with steps of {step:e}; {values:?}"
            );
        }
        let min = f64::from(values.iter().copied().fold(f32::INFINITY, f32::min));
        let max = f64::from(values.iter().copied().fold(-f32::INFINITY, f32::max));
        let largest = max.max(-min) as f32;
        let last_bit = f64::from(largest) - f64::from(largest.next_down());
        assert!(
            step <= (max - min) / 255.0 + 2.0 * last_bit,
            "{step:e}; {values:?}"
        );
    }

    #[test]
    fn a_constant_channel_is_exact() {
        for value in [
            0.0,
            -0.0,
            1.0,
            -0.1,
            1e-45,
            -1e-40,
            6.5e4,
            f32::MAX,
            f32::MIN,
        ] {
            let quantized = quantize(&[value; 3], 1);
            assert_eq!(decoded(&quantized), [value; 3], "{value:e}");
            assert_eq!(quantized.scales[0], 0.0);
        }
        assert_eq!(
            decoded(&quantize(&[0.3, -7.0, 1e30], 3)),
            [0.3, -7.0, 1e30],
            "one cell"
        );
    }

    #[test]
    fn zeros_of_both_signs_give_the_same_codes() {
        let (one, other) = (quantize(&[0.0, -0.0], 1), quantize(&[-0.0, 0.0], 1));
        assert_eq!(one.codes, other.codes);
        assert_eq!(one.offsets[0].to_bits(), 0);
        assert_eq!(other.offsets[0].to_bits(), 0);
    }

    #[test]
    fn channels_have_nothing_to_do_with_each_other() {
        let wide: Vec<f32> = (0..40).map(|i| (i as f32).sin() * 1e3).collect();
        let narrow: Vec<f32> = (0..40).map(|i| (i as f32).cos() * 1e-3).collect();
        let both: Vec<f32> = wide
            .iter()
            .zip(&narrow)
            .flat_map(|(a, b)| [*a, *b])
            .collect();
        let both = decoded(&quantize(&both, 2));
        for (channel, alone) in [wide, narrow].iter().enumerate() {
            let found: Vec<f32> = both.iter().skip(channel).step_by(2).copied().collect();
            assert_eq!(found, decoded(&quantize(alone, 1)));
        }
    }

    #[test]
    fn no_range_is_too_wide_or_too_narrow() {
        let max = f32::MAX;
        for values in [
            vec![-3e38, 3e38, 0.0, 1e30, 1.0],
            vec![-max, max, 0.0, 1e38, -1e38],
            vec![-max, 0.99 * max, 0.0],
            vec![-0.99 * max, max, 0.0],
            vec![-max, max.next_down()],
            vec![max.next_down(), max],
            vec![-max, (-max).next_up()],
            vec![0.0, max],
            vec![-max, 0.0],
            vec![0.0, 1e-45],
            vec![-1e-45, 0.0, 1e-45],
            vec![-1e-40, 3e-42, 1e-40],
            vec![1.0, 1.0_f32.next_up()],
            vec![1.0, 1.0_f32.next_down()],
            vec![-1.0, 1.0, 0.25],
            vec![1e-45, 1.0],
            vec![-1e-45, 3e38],
        ] {
            check(&values);
        }
    }

    #[test]
    fn what_float32_can_hardly_tell_apart_is_exact() {
        // 256 values that are neighbours, each with a code of its own.
        for first in [1.0_f32, -1e6, 1e-45, 3e38] {
            let values: Vec<f32> = std::iter::successors(Some(first), |v| Some(v.next_up()))
                .take(256)
                .collect();
            assert_eq!(decoded(&quantize(&values, 1)), values);
        }
    }

    fn channels_of_features() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![4 => -1.0..1.0_f64, 1 => Just(0.0), 1 => 0.0..6.0_f64];
        let offset = prop_oneof![4 => Just(0.0), 1 => -1e6..1e6_f64, 1 => -10.0..10.0_f64];
        let exponent = prop_oneof![2 => Just(0), 1 => -149..125_i32];
        (prop::collection::vec(value, 1..300), offset, exponent).prop_map(
            |(values, offset, exponent)| {
                let scale = 2.0_f64.powi(exponent);
                let limit = f64::from(f32::MAX);
                values
                    .iter()
                    .map(|v| ((v + offset) * scale).clamp(-limit, limit) as f32)
                    .collect()
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_value_comes_back_within_half_a_step(values in channels_of_features()) {
            check(&values);
        }

        /// By all 256 codes, not by the few that the encoder looks at.
        #[test]
        fn no_code_is_nearer(values in channels_of_features()) {
            let quantized = quantize(&values, 1);
            let (offset, scale) = (quantized.offsets[0], quantized.scales[0]);
            for (&value, &code) in values.iter().zip(&quantized.codes) {
                let error = |code| (f64::from(decode(offset, scale, code)) - f64::from(value)).abs();
                let best = (i8::MIN..=i8::MAX).map(error).fold(f64::MAX, f64::min);
                prop_assert_eq!(error(code), best);
            }
        }

        #[test]
        fn decoded_features_are_encoded_as_what_they_are(
            values in prop::collection::vec(-1.0..1.0_f32, 2..300),
            offset in -3.0..3.0_f32,
        ) {
            let values: Vec<f32> = values.iter().map(|v| v + offset).collect();
            let (min, max) = (values.iter().fold(9.0_f32, |a, &b| a.min(b)), values.iter().fold(-9.0_f32, |a, &b| a.max(b)));
            prop_assume!(max - min > max.max(-min) / 64.0);
            let once = decoded(&quantize(&values, 1));
            prop_assert_eq!(decoded(&quantize(&once, 1)), once);
        }
    }
}
