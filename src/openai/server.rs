//! What the gateway knows of one OpenAI-compatible server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use foldhash::HashMap;
use llamatower_layers::ModelName;

use super::models::Model;

/// The members that a server takes beside OpenAI's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extensions {
    /// Those of vLLM, llama.cpp and LM Studio: `top_k`, `min_p`, the repetition penalty,
    /// `chat_template_kwargs`, `reasoning_content` in messages. A server that does not know one
    /// ignores it.
    #[default]
    Local,
    /// None: what needs them is refused.
    None,
}

/// One server, shared between the client of its probes and that of requests.
#[derive(Debug)]
pub struct Server {
    name: Arc<str>,
    has_v1: bool,
    extensions: Extensions,
    ids: ArcSwap<Ids>,
    /// A part of a response has come since the last look.
    has_sent: AtomicBool,
}

#[derive(Debug, Default)]
struct Ids {
    by_name: HashMap<ModelName, Box<str>>,
    /// Ids that are no names in Ollama's dialect.
    unusable: Vec<String>,
}

impl Server {
    /// A server whose models are not known yet. `has_v1` says whether its base path ends with
    /// `/v1`.
    pub fn new(name: Arc<str>, has_v1: bool) -> Self {
        Self {
            name,
            has_v1,
            extensions: Extensions::default(),
            ids: ArcSwap::default(),
            has_sent: AtomicBool::new(false),
        }
    }

    /// Sets what the server takes beside OpenAI's own members.
    #[must_use]
    pub fn with_extensions(mut self, extensions: Extensions) -> Self {
        self.extensions = extensions;
        self
    }

    /// Its name in errors.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What it takes beside OpenAI's own members.
    pub fn extensions(&self) -> Extensions {
        self.extensions
    }

    /// Records that a part of a response to a request has come.
    pub(super) fn note_sent(&self) {
        // Each part of each stream comes here, so the value is written only if it changes.
        if !self.has_sent.load(Ordering::Relaxed) {
            self.has_sent.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a part of a response to a request has come since this was asked last.
    pub fn take_sent(&self) -> bool {
        self.has_sent.swap(false, Ordering::Relaxed)
    }

    /// The path for the server, below its prefix: `below_v1` begins with a slash.
    pub(super) fn path(&self, below_v1: &str) -> String {
        match self.has_v1 {
            true => format!("/v1{below_v1}"),
            false => below_v1.to_owned(),
        }
    }

    /// Whether paths below `/v1` can be sent as they are.
    pub(super) fn has_v1(&self) -> bool {
        self.has_v1
    }

    /// The server's id of a model, as the client has written its name. Servers compare ids byte for
    /// byte; names have several spellings.
    pub fn id_of(&self, model: &str) -> Box<str> {
        let name = ModelName::parse(model).ok();
        let ids = self.ids.load();
        match name.and_then(|name| ids.by_name.get(&name).cloned()) {
            Some(id) => id,
            None => model.strip_suffix(":latest").unwrap_or(model).into(),
        }
    }

    /// Records the server's models. An id that cannot be a name is logged once.
    pub fn set_models(&self, models: &[Model<'_>]) {
        let named = models.iter().filter_map(|model| {
            let id: Box<str> = model.id.as_str().into();
            Some((model.name()?, id))
        });
        let unusable = models.iter().filter(|model| model.name().is_none());
        let ids = Ids {
            by_name: named.collect(),
            unusable: unusable.map(|model| model.id.clone()).collect(),
        };
        let known = self.ids.load();
        for id in ids
            .unusable
            .iter()
            .filter(|id| !known.unusable.contains(id))
        {
            tracing::warn!(
                backend = %self.name, id,
                "the id of a model cannot be a model name, so the model gets no requests; give it \
                 another id (vLLM: --served-model-name, llama.cpp: --alias)"
            );
        }
        if known.by_name != ids.by_name || known.unusable != ids.unusable {
            self.ids.store(Arc::new(ids));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::models;
    use super::*;

    #[test]
    fn every_spelling_of_a_name_gives_the_exact_id() {
        let server = Server::new("gpu-1:8000".into(), true);
        let page = br#"{"data":[{"id":"Qwen/Qwen2.5-7B"},{"id":"tiny:latest"},{"id":"/x.gguf"}]}"#;
        server.set_models(&models::read(page).unwrap());
        for (written, id) in [
            ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
            ("qwen/qwen2.5-7b:latest", "Qwen/Qwen2.5-7B"),
            ("tiny", "tiny:latest"),
            ("other:latest", "other"),
            ("other:7b", "other:7b"),
            ("/x.gguf", "/x.gguf"),
        ] {
            assert_eq!(&*server.id_of(written), id);
        }
    }
}
