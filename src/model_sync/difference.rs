//! What a server lacks of the declared models, and what it has beside them.

use llamatower_layers::ModelName;

use crate::settings::DeclaredModels;

/// The differences between the declared and the installed models of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Declared for the server, and not installed; each once.
    pub(crate) missing: Vec<ModelName>,
    /// Installed, and not declared for the server.
    pub(crate) undeclared: Vec<ModelName>,
}

impl Difference {
    /// The differences on a server that has these models. `is_called` tells whether a name in the
    /// declaration means the server.
    pub(crate) fn of(
        declared: &DeclaredModels,
        is_called: impl Fn(&str) -> bool,
        installed: &[ModelName],
    ) -> Self {
        let own = declared.by_server.iter();
        let own = own.filter(|(name, _)| is_called(name));
        let own = own.flat_map(|(_, models)| models);
        let wanted: Vec<&ModelName> = declared.all.iter().chain(own).collect();
        let mut missing: Vec<ModelName> = Vec::new();
        for model in &wanted {
            if !installed.contains(model) && !missing.contains(model) {
                missing.push((*model).clone());
            }
        }
        let undeclared = installed.iter().filter(|model| !wanted.contains(model));
        Self {
            missing,
            undeclared: undeclared.cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn models(names: &[&str]) -> Vec<ModelName> {
        let names = names.iter();
        names.map(|name| ModelName::parse(name).unwrap()).collect()
    }

    #[test]
    fn a_server_is_to_have_the_models_of_all_servers_and_its_own() {
        let declared = DeclaredModels {
            all: models(&["a", "B"]),
            by_server: [
                ("gpu-1".to_owned(), models(&["c", "a:latest"])),
                ("gpu-2".to_owned(), models(&["d"])),
            ]
            .into(),
        };
        let installed = models(&["b:latest", "e"]);
        let found = Difference::of(&declared, |name| name == "gpu-1", &installed);
        assert_eq!(found.missing, models(&["a", "c"]));
        assert_eq!(found.undeclared, models(&["e"]));
    }
}
