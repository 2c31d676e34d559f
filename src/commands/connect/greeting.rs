//! What is printed at the start.

use std::fmt::Write as _;

use super::OLLAMAS;
use super::gateway::{Gateway, Offer};
use crate::edge::ListenAddr;

/// The models that are named; of more, the number is told.
const NAMED: usize = 8;

/// The address, what the key may do, and how to use it.
pub(super) fn text(
    gateway: &Gateway,
    listening: &[ListenAddr],
    has_key: bool,
    offer: &Offer,
) -> String {
    let address = listening
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let url = gateway.address.url();
    let mut text = format!("listening on {address}, for the gateway at {url}\n");
    let whose = match has_key {
        true => "the key",
        false => "without a key you",
    };
    let count = offer.models.len();
    let named: Vec<_> = offer
        .models
        .iter()
        .take(NAMED)
        .map(|name| printable(name))
        .collect();
    let more = match count.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let _ = match count {
        0 => writeln!(text, "{whose} may run models, but there are none"),
        _ => writeln!(text, "{whose} may run: {}{more}", named.join(", ")),
    };
    if offer.may_manage {
        let _ = writeln!(text, "{whose} may also pull, create and delete models");
    }
    let client = match address == OLLAMAS.to_string() {
        true => "use ollama and editors as usual, for example: ollama list".to_owned(),
        false => {
            format!("for ollama: OLLAMA_HOST={address} ollama list; for editors: http://{address}")
        }
    };
    let _ = writeln!(text, "{client}\nCtrl-C ends it");
    text
}

/// What the user should know.
pub(super) fn warnings(gateway: &Gateway, has_key: bool) -> Vec<String> {
    let address = &gateway.address;
    let is_here = match address.ip() {
        Some(ip) => ip.to_canonical().is_loopback(),
        None => address.host().eq_ignore_ascii_case("localhost"),
    };
    let mut warnings = Vec::new();
    if has_key && !address.is_https() && !is_here {
        warnings.push(format!(
            "{} is not https: others on the way can read the key and the prompts",
            address.url()
        ));
    }
    warnings
}

/// The gateway's text without control characters.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
