//! Keys in settings. The key of `ada` is `ada-secret`, and so on.

use llamatower_layers::api_key::KeyDigest;

/// The line of a key in a setting.
macro_rules! key_line {
    (ada) => {
        "ada=sha256:cb3ac4f9f4ba2da6f063a94debb6009ec2ee2abcf28f90cd97fdb92fdc44d736"
    };
    (ben) => {
        "ben=sha256:d40b4998c1b40bb710a3f09ddffdeaf0ca6347788a124f8fa3e034c4af1c6b72"
    };
    (bob) => {
        "bob=sha256:9f03ef1533a68d2f506f81ef463c1183a82a6bd40e45613f36e6fe1889cf1b99"
    };
    (webui) => {
        "webui=sha256:17fb0afe95ab490f1351951c4ce21325ac9f8e317e0c8e2d6f56fcf044589f7f"
    };
}

const API_KEYS: &str = "LLAMATOWER_API_KEYS";

/// The key of a client.
pub(crate) const ADA: (&str, &str) = (API_KEYS, key_line!(ada));
/// The keys of two clients.
pub(crate) const ADA_AND_BOB: (&str, &str) =
    (API_KEYS, concat!(key_line!(ada), ",", key_line!(bob)));
/// The keys of a chat server and of a client.
pub(crate) const WEBUI_AND_BOB: (&str, &str) =
    (API_KEYS, concat!(key_line!(webui), ",", key_line!(bob)));
/// The key of an administrator.
pub(crate) const ADMIN_BEN: (&str, &str) = ("LLAMATOWER_ADMIN_KEYS", key_line!(ben));

/// The keys of these names, as the value of a setting.
pub(crate) fn keys(names: &[&str]) -> String {
    let line = |name: &&str| format!("{name}={}", KeyDigest::of(&format!("{name}-secret")));
    names.iter().map(line).collect::<Vec<_>>().join(",")
}

#[test]
fn the_lines_of_keys_have_their_digests() {
    assert_eq!(ADA.1, keys(&["ada"]));
    assert_eq!(ADA_AND_BOB.1, keys(&["ada", "bob"]));
    assert_eq!(WEBUI_AND_BOB.1, keys(&["webui", "bob"]));
    assert_eq!(ADMIN_BEN.1, keys(&["ben"]));
}
