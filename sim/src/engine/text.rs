//! Generated text without meaning; the same seed gives the same text.

const WORDS: [&str; 16] = [
    " the", " a", " of", " and", " to", " in", " tower", " llama", " gate", " way", " model",
    " route", " layer", " stream", " token", " fast",
];

/// The token at a position of the answer.
pub(super) fn token(seed: u64, place: u64) -> &'static str {
    let mixed =
        (seed ^ place.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    WORDS[(mixed >> 60) as usize]
}

/// The number of tokens of a text: one for four bytes, at least one.
pub(crate) fn tokens_of(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(4).max(1)
}
