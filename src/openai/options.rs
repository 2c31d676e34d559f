//! The options of a native request, as members of a request in OpenAI's dialect.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::body::{Body, Member};
use super::chunk::Text;
use super::error::Untranslatable;
use super::server::Extensions;

/// What becomes of an option.
enum Rule {
    /// A member of another name, or of the same.
    Member(&'static str, Kind),
    /// Members that vLLM, llama.cpp and LM Studio take, but OpenAI does not.
    Extension(&'static [&'static str], Kind),
    /// It has no equivalent; these values change nothing.
    NoEquivalent(&'static [f64]),
    /// How Ollama runs the model; it does not change the answer.
    Runner(Kind),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float,
    Integer,
    /// A number of tokens; Ollama's values below 1 mean no limit.
    Limit,
    /// A text or a list of texts.
    Texts,
    Any,
}

/// Ollama ignores unknown options, and so are they here.
fn rule(name: &str) -> Option<Rule> {
    Some(match name {
        "temperature" => Rule::Member("temperature", Kind::Float),
        "top_p" => Rule::Member("top_p", Kind::Float),
        "presence_penalty" => Rule::Member("presence_penalty", Kind::Float),
        "frequency_penalty" => Rule::Member("frequency_penalty", Kind::Float),
        "seed" => Rule::Member("seed", Kind::Integer),
        "stop" => Rule::Member("stop", Kind::Texts),
        "num_predict" => Rule::Member("max_tokens", Kind::Limit),
        "top_k" => Rule::Extension(&["top_k"], Kind::Integer),
        "min_p" => Rule::Extension(&["min_p"], Kind::Float),
        // The first is llama.cpp's name, the second vLLM's. Each ignores that of the other.
        "repeat_penalty" => Rule::Extension(&["repeat_penalty", "repetition_penalty"], Kind::Float),
        "repeat_last_n" => Rule::NoEquivalent(&[64.0]),
        "typical_p" | "tfs_z" | "penalize_newline" => Rule::NoEquivalent(&[1.0]),
        "mirostat" => Rule::NoEquivalent(&[0.0]),
        // Without mirostat they have no effect.
        "mirostat_tau" | "mirostat_eta" => Rule::Runner(Kind::Float),
        "num_ctx" | "num_batch" | "num_gpu" | "main_gpu" | "num_thread" | "num_keep" => {
            Rule::Runner(Kind::Integer)
        }
        "use_mmap" | "use_mlock" | "low_vram" | "numa" | "f16_kv" | "vocab_only" => {
            Rule::Runner(Kind::Any)
        }
        _ => return None,
    })
}

/// Adds the options to the request.
pub(super) fn put<'a>(
    options: Option<&'a RawValue>,
    extensions: Extensions,
    body: &mut Body<'a>,
) -> Result<(), Untranslatable> {
    let Some(options) = options.filter(|options| options.get() != "null") else {
        return Ok(());
    };
    let options: BTreeMap<Text<'a>, &'a RawValue> = serde_json::from_str(options.get())
        .map_err(|_| Untranslatable::Invalid("options must be an object".to_owned()))?;
    for (Text(name), value) in options {
        if value.get() == "null" {
            continue;
        }
        let wrong = |kind: &str| {
            let text = format!("option \"{name}\" must be of type {kind}");
            Untranslatable::Invalid(text)
        };
        match rule(&name) {
            Some(Rule::Member(to, kind)) => {
                let is_sent = check(value, kind).map_err(wrong)?;
                if is_sent {
                    body.put(to, Member::Raw(value));
                }
            }
            Some(Rule::Extension(to, kind)) => {
                check(value, kind).map_err(wrong)?;
                if extensions == Extensions::None {
                    return Err(Untranslatable::no(format!("the option {name}")));
                }
                for to in to {
                    body.put(to, Member::Raw(value));
                }
            }
            Some(Rule::NoEquivalent(neutral)) => {
                let number = number(value).ok_or_else(|| wrong("number"))?;
                if !neutral.contains(&number) {
                    return Err(Untranslatable::no(format!("the option {name}")));
                }
            }
            Some(Rule::Runner(kind)) => {
                check(value, kind).map_err(wrong)?;
            }
            None => {}
        }
    }
    Ok(())
}

/// A number, or a switch as 0 or 1.
fn number(value: &RawValue) -> Option<f64> {
    match serde_json::from_str(value.get()).ok()? {
        Value::Bool(is_on) => Some(f64::from(u8::from(is_on))),
        value => value.as_f64(),
    }
}

/// Whether the value is to be sent.
///
/// # Errors
/// The type that it must have.
fn check(value: &RawValue, kind: Kind) -> Result<bool, &'static str> {
    let value: Value = serde_json::from_str(value.get()).unwrap_or_default();
    // Ollama accepts whole numbers with a fraction of zero.
    let integer = value.as_i64().or_else(|| {
        value
            .as_f64()
            .filter(|float| float.fract() == 0.0)
            .map(|float| float as i64)
    });
    match kind {
        Kind::Float if value.is_number() => Ok(true),
        Kind::Float => Err("float32"),
        Kind::Integer => integer.map(|_| true).ok_or("integer"),
        Kind::Limit => integer.map(|limit| limit > 0).ok_or("integer"),
        Kind::Any => Ok(true),
        Kind::Texts => match &value {
            Value::String(_) => Ok(true),
            Value::Array(items) if items.iter().all(Value::is_string) => Ok(!items.is_empty()),
            _ => Err("array"),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn translated(options: &Value, extensions: Extensions) -> Result<Value, Untranslatable> {
        let raw = serde_json::value::to_raw_value(options).unwrap();
        let mut body = Body::default();
        put(Some(&raw), extensions, &mut body)?;
        Ok(serde_json::to_value(&body).unwrap())
    }

    #[test]
    fn each_option_with_an_equivalent_gets_its_name_and_value() {
        let options = json!({
            "temperature": 0.1, "top_p": 0.9, "presence_penalty": 1, "frequency_penalty": -0.5,
            "seed": 42, "stop": ["\n", "END"], "num_predict": 128,
            "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1,
        });
        let expected = json!({
            "temperature": 0.1, "top_p": 0.9, "presence_penalty": 1, "frequency_penalty": -0.5,
            "seed": 42, "stop": ["\n", "END"], "max_tokens": 128,
            "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1, "repetition_penalty": 1.1,
        });
        assert_eq!(translated(&options, Extensions::Local), Ok(expected));
    }

    #[test]
    fn options_that_do_not_change_the_answer_are_left_out() {
        let options = json!({
            "num_ctx": 8192, "num_gpu": 1, "num_thread": 4, "num_batch": 2, "num_keep": 4,
            "use_mmap": true, "num_predict": -1, "mirostat": 0, "mirostat_tau": 5.0,
            "typical_p": 1.0, "tfs_z": 1, "penalize_newline": true, "repeat_last_n": 64,
            "unknown": {"to": "Ollama"}, "temperature": null, "stop": [],
        });
        for extensions in [Extensions::Local, Extensions::None] {
            assert_eq!(translated(&options, extensions), Ok(json!({})));
        }
    }

    #[test]
    fn an_option_without_an_equivalent_is_refused_by_name() {
        for (name, value) in [
            ("mirostat", json!(2)),
            ("typical_p", json!(0.7)),
            ("tfs_z", json!(0.5)),
            ("repeat_last_n", json!(-1)),
            ("penalize_newline", json!(false)),
        ] {
            let refused = translated(&json!({ name: value }), Extensions::Local);
            assert_eq!(
                refused,
                Err(Untranslatable::no(format!("the option {name}")))
            );
        }
        for name in ["top_k", "min_p", "repeat_penalty"] {
            let refused = translated(&json!({ name: 1 }), Extensions::None);
            assert_eq!(
                refused,
                Err(Untranslatable::no(format!("the option {name}")))
            );
        }
    }

    #[test]
    fn an_option_of_a_wrong_type_is_refused_in_the_words_of_ollama() {
        for (options, text) in [
            (
                json!({"num_predict": "six"}),
                r#"option "num_predict" must be of type integer"#,
            ),
            (
                json!({"num_ctx": "8k"}),
                r#"option "num_ctx" must be of type integer"#,
            ),
            (
                json!({"seed": 1.5}),
                r#"option "seed" must be of type integer"#,
            ),
            (
                json!({"temperature": "hot"}),
                r#"option "temperature" must be of type float32"#,
            ),
            (
                json!({"stop": [1]}),
                r#"option "stop" must be of type array"#,
            ),
            (json!([1]), "options must be an object"),
        ] {
            let refused = translated(&options, Extensions::Local);
            assert_eq!(refused, Err(Untranslatable::Invalid(text.to_owned())));
        }
    }
}
