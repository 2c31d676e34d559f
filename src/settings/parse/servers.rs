//! Parsers of lists in which each item names a server.

use std::sync::Arc;

use llamatower_layers::ModelName;

use super::{Parsed, items, plain, server_name, without_user};
use crate::ollama::fleet::ModelPattern;
use crate::settings::values::{PlacedModel, ServerName};

/// The items of a list like `gpu-1:11434=2, gpu-2=3`, in which each item names a server.
fn of_servers<T>(text: &str, value: impl Fn(&str) -> Parsed<T>) -> Parsed<Vec<(ServerName, T)>> {
    without_user(text)?;
    let read = |item: &str| {
        let parts = item.split_once('=');
        let (name, text) = parts.ok_or(format!("{item:?} names no server"))?;
        let value = value(text.trim()).map_err(|reason| format!("{item:?}: {reason}"))?;
        Ok((server_name(name)?, value))
    };
    items(text).map(read).collect()
}

pub(in crate::settings) fn weights(text: &str) -> Parsed<Vec<(ServerName, f64)>> {
    of_servers(text, weight)
}

pub(in crate::settings) fn labels(text: &str) -> Parsed<Vec<(ServerName, Arc<str>)>> {
    of_servers(text, label)
}

pub(in crate::settings) fn allowed_models(text: &str) -> Parsed<Vec<(ServerName, ModelPattern)>> {
    of_servers(text, plain)
}

pub(in crate::settings) fn placed_models(text: &str) -> Parsed<Vec<PlacedModel>> {
    without_user(text)?;
    let read = |item: &str| {
        let (server, name) = match item.split_once('=') {
            Some((server, name)) => (Some(server_name(server)?), name),
            None => (None, item),
        };
        let model = model(name).map_err(|reason| format!("{item:?}: {reason}"))?;
        Ok(PlacedModel { server, model })
    };
    items(text).map(read).collect()
}

pub(in crate::settings) fn model(text: &str) -> Parsed<ModelName> {
    let name = ModelName::parse(text.trim());
    name.map_err(|_| "it is no model's name, like llama3.2 or qwen3:4b".to_owned())
}

pub(in crate::settings) fn weight(text: &str) -> Parsed<f64> {
    let weight = text.parse().ok();
    let is_valid = weight.filter(|weight: &f64| weight.is_finite() && *weight > 0.0);
    is_valid.ok_or_else(|| "it is not a number above 0".to_owned())
}

pub(in crate::settings) fn label(text: &str) -> Parsed<Arc<str>> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_word) {
        true => Ok(text.into()),
        false => Err("a label has only letters, digits and - _ . / : =".to_owned()),
    }
}
