//! Fresh API keys.

use rand::RngExt as _;
use rand::distr::Alphanumeric;

/// Characters of a key's name after `API`, as LiveKit has them.
const NAME_CHARACTERS: usize = 12;

/// Characters of a secret: 43 of 62 kinds are 256 bits.
const SECRET_CHARACTERS: usize = 43;

/// A key and its secret, as a line of the section `keys`, without a line break.
pub(crate) fn generate() -> String {
    format!("API{} = \"{}\"", random(NAME_CHARACTERS), random(SECRET_CHARACTERS))
}

fn random(characters: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(characters).map(char::from).collect()
}
