//! Scenarios that measure their process, each in a process of its own: other tests would disturb the figures.

use std::{
    process::{Command, exit},
    sync::mpsc,
    thread,
    time::Duration,
};

const SCENARIO: &str = "PROSCENIUM_TEST_SCENARIO";

/// What a child prints when it came to the end of its scenario: a misspelt name would run no test and pass.
const DONE: &str = "the scenario came to its end";

/// Whether the long forms of measurements are asked for.
pub fn is_long() -> bool {
    std::env::var_os("PROSCENIUM_LONG").is_some_and(|value| value == "1")
}

/// Runs `scenario` in a child process, which is this very test, `name`, again. Fails if it fails or takes longer than
/// `limit`.
pub fn in_child(name: &'static str, limit: Duration, scenario: impl FnOnce()) {
    if std::env::var(SCENARIO).is_ok_and(|asked| asked == name) {
        // Dropped when the scenario is over, which ends the wait.
        let (_over, is_over) = mpsc::channel::<()>();
        thread::spawn(move || {
            if is_over.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{name} did not end within {} s", limit.as_secs());
                exit(101);
            }
        });
        scenario();
        println!("{DONE}");
        return;
    }
    let output = Command::new(std::env::current_exe().expect("this program has a path"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(SCENARIO, name)
        // With one heap for each thread, what is free in one cannot be used by another, and RSS says little.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .expect("a child can be started");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n");
    print!("{text}");
    assert!(output.status.success() && text.contains(DONE), "the scenario failed: see above");
}

/// What the process holds of the operating system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    pub threads: usize,
    pub descriptors: usize,
}

pub fn holdings() -> Holdings {
    holdings_of("self")
}

/// Those of another process.
pub fn holdings_of(process: &str) -> Holdings {
    let entries = |of: &str| std::fs::read_dir(format!("/proc/{process}/{of}")).expect("/proc is there").count();
    Holdings { threads: entries("task"), descriptors: entries("fd") }
}

/// What each open descriptor is of.
pub fn descriptors() -> Vec<String> {
    let links = std::fs::read_dir("/proc/self/fd").expect("/proc is there").filter_map(|entry| entry.ok());
    links.filter_map(|link| Some(std::fs::read_link(link.path()).ok()?.display().to_string())).collect()
}

/// A thread that was joined stays in the list for a moment, until the kernel has taken it down; waits for that.
pub fn settled(expected: Holdings) -> Holdings {
    held_once("self", |now| now == expected)
}

/// Waits until another process holds no more than `most`. Fails if that does not come about.
pub fn gives_back(process: &str, most: Holdings) {
    let is_so = |now: Holdings| now.threads <= most.threads && now.descriptors <= most.descriptors;
    let now = held_once(process, is_so);
    assert!(is_so(now), "process {process} holds {now:?}, and not {most:?}");
}

/// What a process holds once `is_so`, or after 5 s.
fn held_once(process: &str, is_so: impl Fn(Holdings) -> bool) -> Holdings {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        let now = holdings_of(process);
        if is_so(now) || std::time::Instant::now() > deadline {
            return now;
        }
        thread::yield_now();
    }
}

/// Resident memory in bytes.
pub fn resident() -> u64 {
    resident_of("self")
}

/// That of another process.
pub fn resident_of(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).expect("/proc is there");
    let pages: u64 = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("pages are a number");
    pages * 4096
}

/// Processor time of this process, user and system, in ticks of 10 ms.
pub fn processor_ticks() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("/proc is there");
    // The name in parentheses may contain anything; the fields behind it start with the third.
    let fields: Vec<&str> = text[text.rfind(')').expect("the name ends") + 1..].split_whitespace().collect();
    let ticks = |field: usize| fields[field - 3].parse::<u64>().expect("ticks are a number");
    ticks(14) + ticks(15)
}

/// As many descriptors as this process may have, for itself and for those that it starts.
pub fn many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    raised.expect("a process may have as many descriptors as its limit says");
}

pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
