//! The command line: nodes and jobs, for people and scripts.

mod args;
mod daemon;
mod exit;
mod find;
mod job;
mod json;
mod key;
mod log;
mod node;
mod output;
mod run;
mod screen;
mod settings;
mod table;
mod watch;
mod worker;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches};

use self::{
    args::{Arguments, Command, Format},
    exit::{Code, Failure},
    screen::Screen,
    settings::Settings,
};
use crate::{
    environment::worker_main,
    flow::{Described, JobRegistry},
    launch,
};

/// The whole command line, as the `main` of a program that has job types of its own: starts and stops nodes that run
/// them, submits them, and looks after them. The program's arguments say what is to be done; `--help` lists what can be.
///
/// Results go to standard output, errors to standard error. The exit code is 0 if all went well, 1 if something was
/// refused, 2 for what cannot be understood, 3 if there is no node that serves this client, 4 if there is no such job,
/// or more than one that is meant, 5 if a job was not waited for any longer, for a job that was waited for 10 if it
/// failed, 11 if it was stopped, 12 if it was cancelled, 13 if it is lost, 130 if it was interrupted, and 141 if
/// the reader of the output has gone.
///
/// The program's own version is not known here; see [`CommandLine::version`].
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use proscenium::{BuildError, Flow, Job, command_line, jobs};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Squares {
///     to: u64,
/// }
///
/// impl Job for Squares {
///     const NAME: &'static str = "squares";
///
///     fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
///         flow.from_batch(1..=self.to).map(|x| x * x).collect("squares");
///         Ok(())
///     }
/// }
///
/// // `program jobmanager start`, `program job submit squares '{"to": 3}' --wait`, ..
/// fn main() -> ExitCode {
///     command_line(jobs![Squares])
/// }
/// ```
#[must_use]
pub fn command_line(jobs: JobRegistry) -> ExitCode {
    CommandLine::new(jobs).run()
}

/// [`command_line`], for a program that has something to say of itself.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use proscenium::{CommandLine, jobs};
///
/// fn main() -> ExitCode {
///     CommandLine::new(jobs![]).version(env!("CARGO_PKG_VERSION")).run()
/// }
/// ```
#[derive(Debug)]
#[must_use = "nothing is carried out until it is run"]
pub struct CommandLine {
    jobs: JobRegistry,
    version: Option<&'static str>,
    arguments: Vec<OsString>,
}

impl CommandLine {
    /// With these job types, and the arguments of this process.
    pub fn new(jobs: JobRegistry) -> Self {
        Self { jobs, version: None, arguments: std::env::args_os().collect() }
    }

    /// The program's version, as `version` and `--version` print it behind its name: `env!("CARGO_PKG_VERSION")`, as a
    /// rule. Default: none; then only the version of this library is printed.
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = Some(version);
        self
    }

    /// Other arguments than those of this process. The first one is what the program is called.
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// Carries out what the arguments say; returns what the process is to end with.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let Self { jobs, version, arguments } = self;
        worker_main_logged(&jobs);
        let program = Program { name: program_name(arguments.first()), version };
        let command = Arguments::command().name(program.name.clone()).bin_name(program.name.clone());
        let command = command.version(program.versions());
        let arguments = command.clone().try_get_matches_from(arguments);
        let arguments = arguments.and_then(|matches| Arguments::from_arg_matches(&matches));
        let arguments = match arguments {
            Ok(arguments) => arguments,
            Err(error) => {
                // Help that was asked for is no error. If it cannot be printed, there is nobody to tell.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Code::Usage as u8));
            }
        };
        let mut format = arguments.common.format.unwrap_or_default();
        match carry_out(arguments, jobs, &program, command, &mut format) {
            Ok(code) => ExitCode::from(code as u8),
            Err(failure) => {
                tell(&failure, format);
                ExitCode::from(failure.code as u8)
            }
        }
    }
}

/// Runs the worker, if this process was started as one. What it tells goes to the log of who started it.
fn worker_main_logged(jobs: &JobRegistry) {
    if launch::is_worker() {
        log::begin("info");
        log::panics_in_one_line();
    }
    worker_main(jobs.clone());
}

/// What is known of the program whose command line this is.
struct Program {
    name: String,
    version: Option<&'static str>,
}

/// Of the library. It is never said to be that of the program.
const LIBRARY: &str = concat!("proscenium ", env!("CARGO_PKG_VERSION"));

impl Program {
    /// What stands behind the program's name.
    fn versions(&self) -> String {
        match self.version {
            Some(version) if self.name == "proscenium" => version.to_owned(),
            Some(version) => format!("{version} ({LIBRARY})"),
            None => format!("({LIBRARY})"),
        }
    }
}

/// What the program was called by.
fn program_name(path: Option<&OsString>) -> String {
    let name = path.map(Path::new).and_then(Path::file_stem).and_then(|name| name.to_str());
    name.unwrap_or("proscenium").to_owned()
}

fn tell(failure: &Failure, format: Format) {
    if failure.code == Code::NobodyReads {
        return;
    }
    let mut out = io::stderr().lock();
    // If it cannot be printed, there is nobody to tell.
    let _ = match format {
        Format::Human => writeln!(out, "error: {}", table::clean(&failure.message)),
        Format::Json => {
            let error = serde_json::json!({ "error": failure.message, "exit_code": failure.code as u8 });
            writeln!(out, "{error}")
        }
    };
}

/// `format` is how a failure is to be told, once that is known.
fn carry_out(
    arguments: Arguments,
    jobs: JobRegistry,
    program: &Program,
    mut command: clap::Command,
    format: &mut Format,
) -> Result<Code, Failure> {
    let Arguments { common, command: what } = arguments;
    if let Command::Completions { shell } = what {
        // Written as a whole, since the generator does not expect its reader to go.
        let (name, mut script) = (command.get_name().to_owned(), Vec::new());
        clap_complete::generate(shell, &mut command, name, &mut script);
        io::stdout().lock().write_all(&script)?;
        return Ok(Code::Done);
    }
    let settings = Settings::load(&common, daemon::is_child(&what));
    if let Command::Version = what {
        // Whatever is wrong with the settings: it is asked for by those who look for what is wrong.
        *format = settings.map_or(*format, |settings| settings.format);
        return version(program, &jobs, &mut Screen::new(*format));
    }
    let settings = settings?;
    *format = settings.format;
    log::begin(if daemon::serves(&what) { "info" } else { "off" });
    let mut screen = Screen::new(settings.format);
    match what {
        Command::Jobmanager(what) => node::carry_out(what, settings, jobs, &mut screen),
        Command::Job(what) => job::carry_out(what, &settings, &jobs, &mut screen),
        Command::Key(what) => key::carry_out(what, &settings, &mut screen),
        Command::Worker(what) => worker::worker(what, &settings, jobs, &mut screen),
        Command::Workers => worker::list(&settings, &mut screen),
        Command::Run(what) => run::run(what, &jobs, &mut screen),
        Command::Health => node::health(&settings, &mut screen),
        Command::Info => node::info(&settings, &mut screen),
        Command::Version | Command::Completions { .. } => Ok(Code::Done),
    }
}

fn version(program: &Program, jobs: &JobRegistry, screen: &mut Screen) -> Result<Code, Failure> {
    if screen.is_json() {
        let jobs: Vec<_> = jobs
            .descriptions()
            .map(|Described { name, parameters, optional }| {
                serde_json::json!({ "name": name, "parameters": parameters, "optional": optional })
            })
            .collect();
        screen.json(&serde_json::json!({
            "program": program.name,
            "version": program.version,
            "proscenium": env!("CARGO_PKG_VERSION"),
            "jobs": jobs,
        }))?;
        return Ok(Code::Done);
    }
    screen.line(format_args!("{} {}", table::clean(&program.name), program.versions()))?;
    for Described { name, parameters, optional } in jobs.descriptions() {
        let optional =
            if optional.is_empty() { String::new() } else { format!(" (may be left out: {})", optional.join(", ")) };
        screen.line(format_args!("job {name}: {parameters}{optional}"))?;
    }
    Ok(Code::Done)
}

#[cfg(test)]
mod tests;
