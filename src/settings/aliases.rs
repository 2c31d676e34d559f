//! Aliases of models: their text, and their tables in the TOML file.
//!
//! A table becomes the text that the variable would have, and is checked with it. So the environment
//! overrides all aliases of the file, and `llamatower check` shows them in one form.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use llamatower_layers::model_alias::{Alias, AliasChoice, AliasTarget, Aliases};
use toml::{Table, Value};

use super::error::Problem;
use super::parse::{Parsed, count, items, one_of, plain};
use super::source::text_of;
use crate::ollama::fleet::ModelPattern;

/// The section of the settings that the tables belong to.
pub(super) const SECTION: &str = "routing";

const CHOICES: [(&str, AliasChoice); 2] = [
    ("cheapest", AliasChoice::Cheapest),
    ("resident", AliasChoice::Resident),
];

/// The chapter in the reference, in Markdown.
pub(super) const REFERENCE: &str = r#"
### Tables of aliases

In the TOML file, aliases can be a table, with a model or a list of models for each:

```toml
[aliases]
"gpt-4o-mini" = "qwen2.5-coder:7b"
fast = ["qwen2.5:7b", "llama3.2:3b"]
```

or a table for each, which can have weights (whole numbers above 0) or `choose` (`cheapest`, `resident`):

```toml
[[aliases]]
name = "chat"
models = ["qwen2.5:7b", "qwen3:8b"]
weights = [9, 1]

[[aliases]]
name = "small"
models = ["llama3.2:3b", "qwen2.5:3b"]
choose = "cheapest"
```

They are added to those in `aliases` of `[routing]`. `LLAMATOWER_ALIASES` in the environment replaces all
aliases of the file.
"#;

/// The tables in the example file.
pub(super) const EXAMPLE: &str = r#"# Aliases can be tables, with weights or a choice by the state of the servers:
# [[aliases]]
# name = "chat"
# models = ["qwen2.5:7b", "qwen3:8b"]
# weights = [9, 1]
"#;

/// All aliases in a text like `gpt-4o-mini=qwen2.5-coder:7b, fast=qwen2.5:7b|llama3.2:3b`.
pub(super) fn aliases(text: &str) -> Parsed<Aliases> {
    let aliases: Result<Vec<_>, _> = items(text).map(alias).collect();
    Aliases::new(aliases?).map_err(|error| error.to_string())
}

/// One alias: `NAME=MODEL|MODEL`, `NAME=MODEL*9|MODEL*1` with weights, or `NAME=cheapest(MODEL|MODEL)`.
fn alias(text: &str) -> Parsed<Alias> {
    let parts = text.split_once('=');
    let (name, models) =
        parts.ok_or_else(|| format!("{text:?} is not like gpt-4o-mini=qwen2.5-coder:7b"))?;
    let models = models.trim();
    let (choice, models) = match models
        .strip_suffix(')')
        .and_then(|text| text.split_once('('))
    {
        Some((choice, models)) => {
            let choice = one_of(&CHOICES)(choice.trim());
            let of_alias = |reason| format!("how {name} chooses a model: {reason}");
            (choice.map_err(of_alias)?, models)
        }
        None => (AliasChoice::InOrder, models),
    };
    let models = models.split('|').map(str::trim);
    let models: Vec<_> = models.filter(|model| !model.is_empty()).collect();
    let weighted = models.iter().filter(|model| model.contains('*')).count();
    let choice = match (weighted, choice) {
        (0, choice) => choice,
        (_, AliasChoice::InOrder) if weighted == models.len() => AliasChoice::Weighted,
        (_, AliasChoice::InOrder) => {
            return Err(format!(
                "{name}: some models have a weight and some have none"
            ));
        }
        _ => return Err(format!("{name}: cheapest and resident have no weights")),
    };
    let targets: Result<Vec<_>, String> = models.into_iter().map(target).collect();
    Alias::new(name, targets?, choice).map_err(|error| error.to_string())
}

/// A model, and its weight if it has one.
fn target(text: &str) -> Parsed<AliasTarget> {
    let (model, weight) = match text.split_once('*') {
        Some((model, weight)) => {
            let weight = count::<NonZeroU32>(weight);
            let weight = weight.map_err(|reason| format!("the weight in {text:?}: {reason}"))?;
            (model, Some(weight))
        }
        None => (text, None),
    };
    let target = AliasTarget::new(model).map_err(|error| error.to_string())?;
    Ok(match weight {
        Some(weight) => target.with_weight(weight),
        None => target,
    })
}

/// The models that keys may use, as in `ada=qwen*|llama3.2, bob=*:1b`.
pub(super) fn key_models(text: &str) -> Parsed<BTreeMap<Arc<str>, Vec<ModelPattern>>> {
    let mut of: BTreeMap<Arc<str>, Vec<ModelPattern>> = BTreeMap::new();
    for item in items(text) {
        let parts = item.split_once('=');
        let (key, patterns) = parts.ok_or_else(|| format!("{item:?} is not like ada=qwen*"))?;
        let patterns = patterns.split('|').map(|text| {
            let pattern = plain::<ModelPattern>(text);
            pattern.map_err(|reason| format!("{item:?}: {reason}"))
        });
        let patterns: Result<Vec<_>, _> = patterns.collect();
        of.entry(key.trim().into()).or_default().extend(patterns?);
    }
    Ok(of)
}

/// Moves the tables of a file into `aliases` of its section `[routing]`. A wrong table is left out;
/// returns the problems with them.
pub(super) fn fold(table: &mut Table, path: &str) -> Vec<Problem> {
    let texts: Vec<Result<String, Problem>> = match table.remove("aliases") {
        None => return Vec::new(),
        Some(Value::Table(rows)) => {
            let rows = rows.into_iter();
            rows.map(|(name, models)| {
                let subject = format!("{name:?} in [aliases] in {path}");
                one(&name, &models, None, None).map_err(|reason| Problem::new(subject, reason))
            })
            .collect()
        }
        Some(Value::Array(rows)) => {
            let rows = rows.iter().enumerate();
            rows.map(|(index, row)| {
                let subject = format!("table {} of aliases in {path}", index + 1);
                of_table(row).map_err(|reason| Problem::new(subject, reason))
            })
            .collect()
        }
        Some(_) => {
            let reason = "write [aliases] with a line for each, or [[aliases]] before each; for a list \
                          in one text, did you mean routing.aliases?";
            return vec![Problem::new(format!("aliases in {path}"), reason)];
        }
    };
    let (texts, problems): (Vec<_>, Vec<_>) = texts.into_iter().partition(Result::is_ok);
    let texts = texts.into_iter().flatten().map(Value::String);
    let section = table
        .entry(SECTION)
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        let mut known = match section.remove("aliases") {
            None => Vec::new(),
            Some(Value::Array(known)) => known,
            Some(other) => vec![other],
        };
        known.extend(texts);
        if !known.is_empty() {
            section.insert("aliases".to_owned(), Value::Array(known));
        }
    }
    problems.into_iter().filter_map(Result::err).collect()
}

/// The text of an alias that has a table of its own.
fn of_table(row: &Value) -> Parsed<String> {
    const KEYS: [&str; 4] = ["name", "models", "weights", "choose"];
    let row = row.as_table().ok_or("it is not a table")?;
    if let Some(unknown) = row.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let keys = KEYS.join(", ");
        return Err(format!("an alias has no {unknown:?}; it has {keys}"));
    }
    let name = row.get("name").and_then(Value::as_str);
    let name = name.ok_or("each alias needs a name, like \"gpt-4o-mini\"")?;
    let models = row.get("models");
    let models = models.ok_or("each alias needs models, like [\"qwen2.5-coder:7b\"]")?;
    one(name, models, row.get("weights"), row.get("choose"))
}

/// The text of an alias.
fn one(
    name: &str,
    models: &Value,
    weights: Option<&Value>,
    choose: Option<&Value>,
) -> Parsed<String> {
    let models = match models {
        Value::Array(models) => models.iter().map(Value::as_str).collect(),
        models => models.as_str().map(|model| vec![model]),
    };
    let models = models.ok_or("its models are neither a text nor a list of texts")?;
    if let Some(wrong) = models.iter().chain([&name]).find(|text| text.contains(',')) {
        return Err(format!("{wrong:?} is not a model's name"));
    }
    let models = match weights {
        None => models.join("|"),
        Some(Value::Array(weights)) if weights.len() == models.len() => {
            let pairs = models.iter().zip(weights);
            let pairs = pairs.map(|(model, weight)| Some(format!("{model}*{}", text_of(weight)?)));
            let pairs: Option<Vec<_>> = pairs.collect();
            pairs.ok_or("a weight is not a number")?.join("|")
        }
        Some(_) => return Err("it must have a weight for each model, like [9, 1]".to_owned()),
    };
    let text = match choose {
        None => format!("{name}={models}"),
        Some(choose) => {
            let choose = choose.as_str().unwrap_or_default();
            format!("{name}={choose}({models})")
        }
    };
    // Checked here too, so that an error names the table.
    alias(&text).map(|_| text)
}
