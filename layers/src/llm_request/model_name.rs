//! A first form of this module.
/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelName(String);
impl ModelName {
    /// See the module.
    pub fn parse(s: &str) -> Result<Self, ()> {
        let s = s.to_ascii_lowercase();
        Ok(Self(if s.contains(':') { s } else { s + ":latest" }))
    }
}
