//! Every layer beside the layers of tower and tower-http, as a user's project has them: outside of them, inside of
//! them, on hyper's own types, in an axum router, around a tonic service, and around clients.

#![cfg(test)]

#[macro_use]
mod others;

mod clients;
mod each_layer;
mod grpc;
mod layers;
mod support;
