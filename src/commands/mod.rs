//! The commands of the program: its arguments, and what each command does. All but `serve` and `demo` talk to
//! a gateway or to servers from outside.

pub mod arguments;
pub mod check;
pub mod connect;
pub mod demo;
pub mod doctor;
pub mod healthcheck;
pub mod keygen;
pub mod manage;
pub mod manual;
pub mod run;
mod simulate;
pub mod top;
