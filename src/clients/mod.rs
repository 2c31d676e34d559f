//! Who a request is from, and what the gateway lets its client do.

mod client;
pub mod concurrency;
pub mod delegation;
pub mod model_rules;
pub mod networks;
pub mod request_filter;

pub use self::client::Client;
