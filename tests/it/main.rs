//! The behaviour of proscenium, seen from outside. One module for each kind of promise; each test runs in every kind
//! of environment there is.

mod support;

mod edges;
mod history;
mod inputs;
mod interrupts;
mod jobs;
mod keys;
mod operators;
mod outputs;
mod parallelism;
mod parity;
mod services;
mod sources;
mod supervision;
mod tidy;

mod bad_input;
mod bounded;
mod latency;
mod leaks;
mod properties;
