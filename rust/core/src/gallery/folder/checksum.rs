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
