//! The table `[models]` beside other settings.

use super::*;

#[test]
fn a_declared_server_that_is_unknown_is_a_warning_with_and_without_the_interval() {
    let text = "[models]\nall = [\"a\"]\n\"gpu-1:11434\" = [\"b\"]\n\"gpu-9\" = [\"c\"]\n";
    let url = ("OLLAMA_URL", "http://gpu-1:11434");
    for sync in [None, Some(("LLAMATOWER_MODELS_SYNC", "10m"))] {
        let settings: Vec<_> = [url].into_iter().chain(sync).collect();
        let warnings = load_file(text, &settings).expect("valid").warnings;
        let subjects: Vec<_> = warnings.iter().map(Problem::subject).collect();
        assert_eq!(subjects, ["\"gpu-9\" in [models]"], "{warnings:?}");
    }
}
