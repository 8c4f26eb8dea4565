//! The behaviour of proscenium, seen from outside. One module for each kind of promise; each test runs in every kind
//! of environment there is.

mod support;

#[cfg(feature = "cli")]
mod cli;
mod edges;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(feature = "files")]
mod files;
#[cfg(target_os = "linux")]
mod frozen;
mod held;
mod history;
mod inputs;
mod interrupts;
mod jobs;
mod keyed_state;
mod keys;
mod loops;
mod operators;
mod outputs;
mod parallelism;
mod parity;
mod remote;
mod replays;
mod restarts;
mod services;
mod several;
mod severed;
mod sources;
mod spread;
mod staffing;
mod supervision;
mod tidy;
mod timers;
mod turns;
mod widths;
mod zips;

mod bad_input;
mod bounded;
mod latency;
mod leaks;
mod leases;
#[cfg(target_os = "linux")]
mod load;
mod pipelines;
mod processes;
mod properties;

/// All job types that are run in environments of every kind.
fn jobs() -> proscenium::JobRegistry {
    let modules = [
        edges::jobs(),
        #[cfg(target_os = "linux")]
        faults::jobs(),
        #[cfg(feature = "files")]
        files::jobs(),
        #[cfg(target_os = "linux")]
        frozen::jobs(),
        history::jobs(),
        inputs::jobs(),
        jobs::jobs(),
        keyed_state::jobs(),
        keys::jobs(),
        loops::jobs(),
        operators::jobs(),
        outputs::jobs(),
        parallelism::jobs(),
        parity::jobs(),
        bad_input::jobs(),
        bounded::jobs(),
        #[cfg(target_os = "linux")]
        leases::jobs(),
        #[cfg(target_os = "linux")]
        load::jobs(),
        pipelines::jobs(),
        properties::jobs(),
        remote::jobs(),
        services::jobs(),
        several::jobs(),
        replays::jobs(),
        #[cfg(target_os = "linux")]
        severed::jobs(),
        restarts::jobs(),
        sources::jobs(),
        #[cfg(target_os = "linux")]
        spread::jobs(),
        staffing::jobs(),
        supervision::jobs(),
        timers::jobs(),
        held::jobs(),
        turns::jobs(),
        widths::jobs(),
        zips::jobs(),
    ];
    modules.into_iter().fold(proscenium::JobRegistry::new(), proscenium::JobRegistry::merge)
}
