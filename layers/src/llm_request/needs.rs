//! The capabilities that a request needs.

/// What a request needs of its model, beside text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Needs {
    /// It has images.
    pub images: bool,
    /// It has tools.
    pub tools: bool,
    /// It asks for thinking.
    pub thinking: bool,
}

impl Needs {
    /// Only text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the request has images.
    #[must_use]
    pub fn with_images(mut self, has_images: bool) -> Self {
        self.images = has_images;
        self
    }

    /// Whether the request has tools.
    #[must_use]
    pub fn with_tools(mut self, has_tools: bool) -> Self {
        self.tools = has_tools;
        self
    }

    /// Whether the request asks for thinking.
    #[must_use]
    pub fn with_thinking(mut self, thinks: bool) -> Self {
        self.thinking = thinks;
        self
    }

    /// The names of the capabilities, as Ollama's lists have them.
    pub fn capabilities(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.images, "vision"),
            (self.tools, "tools"),
            (self.thinking, "thinking"),
        ];
        all.into_iter()
            .filter_map(|(is_needed, name)| is_needed.then_some(name))
    }
}
