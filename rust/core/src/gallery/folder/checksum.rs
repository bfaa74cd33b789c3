//! Checksums of what is in a folder.

/// BLAKE3, cut to 128 bits: against damage, not against forgery.
pub(crate) type Checksum = [u8; 16];

/// The checksum of some bytes.
pub(crate) fn checksum(bytes: &[u8]) -> Checksum {
    first_half(&blake3::hash(bytes))
}

pub(crate) fn first_half(hash: &blake3::Hash) -> Checksum {
    let mut half = Checksum::default();
    half.copy_from_slice(&hash.as_bytes()[..size_of::<Checksum>()]);
    half
}

/// A checksum in digits.
pub(crate) fn hex(checksum: Checksum) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    checksum
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// The checksum that these digits mean.
pub(crate) fn from_hex(digits: &str) -> Option<Checksum> {
    let mut checksum = Checksum::default();
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != checksum.len() {
        return None;
    }
    for (byte, [high, low]) in checksum.iter_mut().zip(pairs) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *byte = (value(*high)? << 4 | value(*low)?) as u8;
    }
    Some(checksum)
}
