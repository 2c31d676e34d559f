//! Aliases: their list in the environment, and their tables in the TOML file.

use super::*;

/// The settings' aliases, each with its models in order.
fn aliases(loaded: &Loaded) -> Vec<String> {
    let aliases = &loaded.settings.routing.aliases;
    let rows = aliases.iter().map(|alias| {
        let models = aliases.in_listed_order(alias);
        let models: Vec<_> = models.iter().map(|model| &*model.text).collect();
        format!("{}: {}", alias.text(), models.join(" "))
    });
    rows.collect()
}

fn sound(loaded: Result<Loaded, SettingsError>) -> Loaded {
    loaded.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn tables_are_the_same_as_the_list() {
    let list = "gpt=a, fast=b:1b|c,mix = a*9 | c*1, soon=cheapest(a|b), warm= resident( a | gpt )";
    let list = sound(load(&[("LLAMATOWER_ALIASES", list)]));
    let tables = r#"
        [[aliases]]
        name = "gpt"
        models = "a"
        [[aliases]]
        name = "fast"
        models = ["b:1b", "c"]
        [[aliases]]
        name = "mix"
        models = ["a", "c"]
        weights = [9, 1]
        [[aliases]]
        name = "soon"
        models = ["a", "b"]
        choose = "cheapest"
        [[aliases]]
        name = "warm"
        models = ["a", "gpt"]
        choose = "resident"
    "#;
    let tables = sound(load_file(tables, &[]));
    assert_eq!(
        list.settings.routing.aliases,
        tables.settings.routing.aliases
    );
    let expected = ["gpt: a", "fast: b:1b c", "mix: a c", "soon: a b", "warm: a"];
    assert_eq!(aliases(&list), expected);
}

#[test]
fn one_table_can_have_all_aliases_and_is_added_to_the_list_of_the_file() {
    let text = "[aliases]\n\"openai/gpt-4o\" = \"a\"\nfast = [\"b\", \"c\"]\n[routing]\naliases = \"x=y\"\n";
    let loaded = sound(load_file(text, &[]));
    assert_eq!(aliases(&loaded), ["x: y", "fast: b c", "openai/gpt-4o: a"]);
    let loaded = sound(load_file(text, &[("LLAMATOWER_ALIASES", "gpt=a")]));
    assert_eq!(
        aliases(&loaded),
        ["gpt: a"],
        "the environment replaces them"
    );
}

#[test]
fn an_error_in_a_table_names_the_table() {
    for (text, place, reason) in [
        (
            "[[aliases]]\nname = \"a\"",
            "table 1 of aliases in /",
            "each alias needs models",
        ),
        (
            "[[aliases]]\nmodels = \"a\"",
            "table 1 of aliases in /",
            "each alias needs a name",
        ),
        (
            "[[aliases]]\nname = \"a\"\nmodels = \"b\"\n[[aliases]]\nname = \"c\"\nmodel = \"b\"",
            "table 2 of aliases in /",
            "no \"model\"; it has name, models, weights, choose",
        ),
        (
            "[[aliases]]\nname = \"a\"\nmodels = [\"b\", \"c\"]\nweights = [1]",
            "table 1 of aliases in /",
            "a weight for each model",
        ),
        (
            "[[aliases]]\nname = \"a\"\nmodels = [\"b\", \"c\"]\nweights = [1, 0]",
            "table 1 of aliases in /",
            "the weight in \"c*0\"",
        ),
        (
            "[[aliases]]\nname = \"a\"\nmodels = [\"b\", \"c\"]\nchoose = \"best\"",
            "table 1 of aliases in /",
            "must be one of cheapest, resident",
        ),
        (
            "[[aliases]]\nname = \"a\"\nmodels = [\"b,c=d\"]",
            "table 1 of aliases in /",
            "\"b,c=d\" is not a model's name",
        ),
        (
            "[aliases]\ngpt = []",
            "\"gpt\" in [aliases] in /",
            "gpt stands for no model",
        ),
        (
            "[aliases]\ngpt = 3",
            "\"gpt\" in [aliases] in /",
            "neither a text nor a list",
        ),
        (
            "aliases = \"a=b\"",
            "aliases in /",
            "did you mean routing.aliases?",
        ),
        (
            "[aliases]\na = \"b\"\nb = \"a\"",
            "routing.aliases in /",
            "stand for each other",
        ),
    ] {
        let error = load_file(text, &[]).expect_err(text).to_string();
        assert!(
            error.starts_with(place) && error.contains(reason),
            "{text}\n{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn models_of_a_key_that_does_not_exist_are_a_warning() {
    let loaded = sound(load(&[("LLAMATOWER_KEY_MODELS", "ada=qwen*|a,ada=b")]));
    let models = &loaded.settings.limits.key_models["ada"];
    assert_eq!(models.len(), 3, "entries of one key are added");
    let warned = loaded.all_warnings().any(|warning| {
        let text = warning.to_string();
        text.contains("LLAMATOWER_KEY_MODELS") && text.contains("ada")
    });
    assert!(warned);
}
