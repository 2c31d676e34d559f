//! Guides: how the layers are used in a program. This module exists in the documentation only.

#[doc = include_str!("../guide/with_axum.md")]
pub mod with_axum {}

#[doc = include_str!("../guide/with_hyper.md")]
pub mod with_hyper {}

#[doc = include_str!("../guide/around_a_client.md")]
pub mod around_a_client {}

#[doc = include_str!("../guide/order_of_layers.md")]
pub mod order_of_layers {}
