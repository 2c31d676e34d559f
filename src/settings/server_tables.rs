//! The tables `[[backends.servers]]` in the TOML file, one for each server.
//!
//! Each column of these tables is a part of the file's value of another setting: `url` of
//! `backends.urls`, `weight` of `backends.weights`. Here the columns are checked, so that an error
//! names the table, and appended to those values. Everything else follows from there: the
//! environment overrides a whole column, and `llamatower check` shows it.

use std::num::NonZeroUsize;

use toml::{Table, Value};

use super::error::Problem;
use super::parse::{self, Parsed, label, model, weight};
use super::source::text_of;
use crate::ollama::fleet::ModelPattern;
use crate::ollama::upstream::{Address, has_user};

/// Checks the text of one item.
type Check = fn(&str) -> Parsed<()>;

/// A key of a server's table, the name of the list in `[backends]` that its value belongs to, and
/// the check of an item.
const COLUMNS: [(&str, &str, Check); 8] = [
    (URL, "urls", |text| parse::backend(text).map(drop)),
    ("weight", "weights", |text| weight(text).map(drop)),
    ("slots", "slots", is_count),
    ("max_in_flight", "max_in_flight", is_count),
    ("labels", "labels", |text| label(text).map(drop)),
    ("models", "models", |text| {
        parse::plain::<ModelPattern>(text).map(drop)
    }),
    ("preload", "preload", |text| model(text).map(drop)),
    ("pinned", "pinned", |text| model(text).map(drop)),
];

const URL: &str = "url";

fn is_count(text: &str) -> Parsed<()> {
    parse::count::<NonZeroUsize>(text).map(drop)
}

/// The section of the tables.
pub(super) const SECTION: &str = "backends";

/// The chapter in the reference, in Markdown.
pub(super) const REFERENCE: &str = r#"
### A table for each server

In the TOML file each server can have a table instead of an item in several of these lists:

```toml
[[backends.servers]]
url = "http://gpu-1:11434"
weight = 2                       # of LLAMATOWER_BACKEND_WEIGHTS
slots = 4                        # of LLAMATOWER_SLOTS
max_in_flight = 8                # of LLAMATOWER_BACKEND_MAX_IN_FLIGHT
labels = ["a100", "lab"]         # of LLAMATOWER_BACKEND_LABELS
models = ["llama3*", "qwen3:4b"] # of LLAMATOWER_BACKEND_MODELS
preload = ["qwen3:4b"]           # of LLAMATOWER_PRELOAD_MODELS
pinned = ["llama3.2"]            # of LLAMATOWER_PINNED_MODELS

[[backends.servers]]
url = "http://gpu-2:11434"
```

Only `url` is required. The values are added to those of the lists in `[backends]`, so that
`slots = 2` there applies to all servers whose tables have no `slots`. A variable overrides the list
and the tables: with `OLLAMA_URL` in the environment, every other value in a table needs a server in
`OLLAMA_URL`.
"#;

/// The tables in the example file.
pub(super) const EXAMPLE: &str = r#"# Each server can have a table instead of an item in several of the lists above; only url is required.
# [[backends.servers]]
# url = "http://gpu-1:11434"
# weight = 2
# slots = 4
# max_in_flight = 8
# labels = ["a100", "lab"]
# models = ["llama3*", "qwen3:4b"]
# preload = ["qwen3:4b"]
# pinned = ["llama3.2"]
"#;

/// The errors in the tables.
#[derive(Debug, Default)]
pub(super) struct ServerTables {
    /// Wrong values.
    pub(super) problems: Vec<Problem>,
    /// Keys that no table has.
    pub(super) unknown: Vec<Problem>,
}

impl ServerTables {
    /// Moves the tables of a file into the lists of its section `[backends]`. A wrong value is
    /// left out, and reported.
    pub(super) fn fold(table: &mut Table, path: &str) -> Self {
        let mut found = Self::default();
        let Some(Value::Table(backends)) = table.get_mut("backends") else {
            return found;
        };
        let Some(servers) = backends.remove("servers") else {
            return found;
        };
        let tables: Option<Vec<_>> = match servers {
            Value::Array(rows) => rows.into_iter().map(as_table).collect(),
            _ => None,
        };
        let Some(tables) = tables else {
            let reason = "write [[backends.servers]] before the settings of each server; for a list of \
                          addresses, did you mean backends.urls?";
            let subject = format!("backends.servers in {path}");
            found.problems.push(Problem::new(subject, reason));
            return found;
        };
        let mut urls: Vec<Address> = Vec::new();
        for (index, server) in tables.into_iter().enumerate() {
            let place = Place {
                index: index + 1,
                path,
            };
            found.fold_one(&place, &server, &mut urls, backends);
        }
        found
    }

    fn fold_one(
        &mut self,
        place: &Place<'_>,
        server: &Table,
        urls: &mut Vec<Address>,
        backends: &mut Table,
    ) {
        let is_column = |key: &&String| COLUMNS.iter().any(|(column, ..)| column == key);
        for key in server.keys().filter(|key| !is_column(key)) {
            let keys = COLUMNS.map(|(column, ..)| column).join(", ");
            let reason = format!("a server has no such setting; it has {keys}");
            self.unknown.push(place.problem(key, &reason));
        }
        let url = match url_of(place, server, urls) {
            Ok(url) => url,
            Err(problem) => return self.problems.push(problem),
        };
        for (key, list, check) in COLUMNS {
            let Some(value) = server.get(key) else {
                continue;
            };
            let items = items(value, check).map_err(|reason| place.problem(key, &reason));
            let items = match items {
                Ok(items) => items,
                Err(problem) => {
                    self.problems.push(problem);
                    continue;
                }
            };
            let named = items.into_iter().map(|item| match key {
                URL => item,
                _ => format!("{url}={item}"),
            });
            append(backends, list, named);
        }
    }
}

/// A server's table in the file.
struct Place<'a> {
    /// From 1.
    index: usize,
    path: &'a str,
}

impl Place<'_> {
    fn problem(&self, key: &str, reason: &str) -> Problem {
        let Self { index, path } = self;
        Problem::new(
            format!("{key} in table {index} of backends.servers in {path}"),
            reason,
        )
    }
}

fn as_table(value: Value) -> Option<Table> {
    match value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

/// The address in a server's table, which no earlier table may have.
fn url_of(place: &Place<'_>, server: &Table, urls: &mut Vec<Address>) -> Result<String, Problem> {
    let wrong = |reason: &str| place.problem(URL, reason);
    let text = server.get(URL).and_then(Value::as_str).map(str::trim);
    let text = text.ok_or_else(|| wrong("each server needs one, like \"http://gpu-1:11434\""))?;
    let url = parse::backend(text).map_err(|reason| wrong(&reason))?;
    let mut known = urls.iter();
    if let Some(earlier) = known.position(|known| known.is_same_server(&url)) {
        let earlier = earlier + 1;
        let reason =
            format!("{text} is the server of table {earlier} too; give each server one table");
        return Err(wrong(&reason));
    }
    urls.push(url);
    Ok(text.to_owned())
}

/// The items of a value.
fn items(value: &Value, check: Check) -> Parsed<Vec<String>> {
    let text = text_of(value).ok_or_else(|| format!("it has the type {}", value.type_str()))?;
    let items: Vec<_> = parse::items(&text).map(str::to_owned).collect();
    if items.is_empty() {
        return Err("it is empty; set a value, or remove the line".to_owned());
    }
    let mut checked = items.iter().map(|item| (item, check(item)));
    match checked.find_map(|(item, checked)| Some((item, checked.err()?))) {
        Some((_, reason)) if has_user(&text) => Err(reason),
        Some((item, reason)) => Err(format!("{reason} (it is {item:?})")),
        None => Ok(items),
    }
}

/// Appends items to a list that may be a text, a number or an array so far. A value of another type
/// is reported with the setting itself.
fn append(backends: &mut Table, list: &str, items: impl Iterator<Item = String>) {
    let mut values = match backends.remove(list) {
        None => Vec::new(),
        Some(Value::Array(known)) => known,
        Some(other) => vec![other],
    };
    values.extend(items.map(Value::String));
    backends.insert(list.to_owned(), Value::Array(values));
}
