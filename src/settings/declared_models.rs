//! The models that servers are to have: the table `[models]` of the TOML file.
//!
//! `llamatower models sync` compares it with what is installed, and the gateway does if
//! `LLAMATOWER_MODELS_SYNC` is set; see [`model_sync`](crate::model_sync).

use std::collections::BTreeMap;
use std::path::Path;

use llamatower_layers::ModelName;
use toml::{Table, Value};

use super::error::{Problem, SettingsError};
use super::files::FilesRead;
use super::source::read_table;

/// The key that stands for all servers.
const ALL: &str = "all";

/// The chapter in the reference, in Markdown.
pub(super) const REFERENCE: &str = r#"
## `[models]`

In the TOML file, the table `[models]` names the models that servers are to have installed, by the names of the servers
or for `all`:

```toml
[models]
all = ["nomic-embed-text"]
"gpu-1:11434" = ["qwen2.5-coder:7b", "llama3.2"]
```

`llamatower models sync` pulls those that are missing, and the gateway itself does if `LLAMATOWER_MODELS_SYNC` is set
([Models](models.md#declared-models)).
"#;

/// The table in the example file.
pub(super) const EXAMPLE: &str = r#"
# The models that servers are to have, by server or for all (see models_sync above):
# [models]
# all = ["nomic-embed-text"]
# "gpu-1:11434" = ["qwen2.5-coder:7b"]
"#;

/// The models that servers are to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredModels {
    /// Those of all servers.
    pub all: Vec<ModelName>,
    /// Further ones of single servers, by name.
    pub by_server: BTreeMap<String, Vec<ModelName>>,
}

impl DeclaredModels {
    /// Reads the table `[models]` of a TOML file; empty if it has none.
    ///
    /// # Errors
    /// The file cannot be read, or the table is wrong.
    pub fn load(file: &Path) -> Result<Self, SettingsError> {
        let path = file.display().to_string();
        let mut files = FilesRead::default();
        let (declared, problems) = match read_table(file, &mut files) {
            Ok(mut table) => Self::take(&mut table, &path),
            Err(reason) => (Self::default(), vec![Problem::new(&path, reason)]),
        };
        match problems.is_empty() {
            true => Ok(declared),
            false => Err(SettingsError::new(problems, files)),
        }
    }

    /// Whether nothing is declared.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.by_server.is_empty()
    }

    /// Removes the table from the file's content. What is wrong is left out, and reported.
    pub(super) fn take(table: &mut Table, path: &str) -> (Self, Vec<Problem>) {
        let mut declared = Self::default();
        let rows = match table.remove("models") {
            None => return (declared, Vec::new()),
            Some(Value::Table(rows)) => rows,
            Some(_) => {
                let reason = "write [models], with a line like \"gpu-1:11434\" = [\"llama3.2\"]";
                let problem = Problem::new(format!("models in {path}"), reason);
                return (declared, vec![problem]);
            }
        };
        let mut problems = Vec::new();
        for (server, models) in rows {
            match models_of(&models) {
                Ok(models) if server == ALL => declared.all = models,
                Ok(models) => {
                    declared.by_server.insert(server, models);
                }
                Err(reason) => {
                    let subject = format!("{server:?} in [models] in {path}");
                    problems.push(Problem::new(subject, reason));
                }
            }
        }
        (declared, problems)
    }
}

fn models_of(value: &Value) -> Result<Vec<ModelName>, String> {
    let names: Option<Vec<_>> = match value {
        Value::Array(names) => names.iter().map(Value::as_str).collect(),
        name => name.as_str().map(|name| vec![name]),
    };
    let names = names.ok_or("it is neither a model nor a list of models")?;
    let parsed = names
        .into_iter()
        .map(|name| ModelName::parse(name).map_err(|_| format!("{name:?} is not a model's name")));
    parsed.collect()
}
