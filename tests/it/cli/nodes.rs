//! Nodes: started, stopped, started anew, killed.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::{User, count, wait_for_end};
use crate::support::on_a_thread;

#[test]
fn a_node_that_is_started_anew_keeps_its_history_and_its_settings() {
    let mut user = User::new();
    user.start_node(&["--task-threads", "3", "--limit", "ended_jobs_max=5"]);
    let text = user.file("text", "a b\n");
    let ended = user.submits(&["word-count", &count(&text), "--autostop", "--wait"]);
    let ended = ended.lines().next().expect("the id").to_owned();
    let stopped = user.submits(&["ticker"]);
    let before = user.node_process();
    let said = user.types(&["jobmanager", "restart", "--format", "json"]).with(0);
    user.address = said.json()["address"].as_str().unwrap().to_owned();
    assert_ne!(user.node_process(), before);
    assert!(user.well(&["info"]).contains("task threads     3"));
    assert!(user.well(&["job", "status", &ended]).contains("completed"));
    assert!(user.well(&["job", "status", &stopped]).contains("stopped"), "a restart drains");
    let gone = user.types(&["job", "output", &ended, "counts"]).with(1);
    assert!(gone.err.contains("are gone"), "{gone:?}");
    user.well(&["jobmanager", "stop"]);
    // There is nothing to stop, and all the same to start.
    let said = user.types(&["jobmanager", "restart", "--format", "json"]).with(0);
    user.address = said.json()["address"].as_str().unwrap().to_owned();
    assert!(user.well(&["info"]).contains("task threads     3"));
    user.well(&["jobmanager", "stop"]);
}

/// A restart used to start a node where there had been none.
#[test]
fn where_no_node_was_started_there_is_none_to_restart() {
    let user = User::new();
    let said = user.types(&["jobmanager", "restart"]).with(3);
    assert!(said.err.contains("no node was started") && said.err.contains("jobmanager start"), "{said:?}");
    assert_eq!(fs::read_dir(user.home.path()).unwrap().count(), 0, "neither a key nor a history");
}

#[cfg(target_os = "linux")]
#[test]
fn a_test_that_fails_leaves_no_node() {
    let mut user = User::new();
    let folder = user.home.path().join("elsewhere").display().to_string();
    user.start_node(&["--data-folder", &folder]);
    let processes = user.processes();
    assert_eq!(processes.len(), 1);
    drop(user);
    processes.into_iter().for_each(wait_for_end);
}

#[test]
fn jobs_that_ran_when_their_node_was_killed_read_lost() {
    let mut user = User::with_node();
    let text = user.file("text", "a b\n");
    let ended = user.submits(&["word-count", &count(&text), "--autostop", "--wait"]);
    let ended = ended.lines().next().expect("the id").to_owned();
    let running = user.submits(&["ticker"]);
    user.kills_node();
    user.types(&["job", "status", &running]).with(3);
    user.start_node(&[]);
    let status = user.well(&["job", "status", &running]);
    assert!(status.contains("lost: the node's process ended while the job ran"), "{status}");
    assert!(user.well(&["job", "status", &ended]).contains("completed"));
    let watched = user.types(&["job", "watch", &running]).with(13);
    assert!(watched.out.contains("lost"), "{watched:?}");
    user.well(&["jobmanager", "stop"]);
}

#[test]
fn a_node_in_the_background_holds_nothing_of_whoever_started_it() {
    let mut user = User::new();
    // Files that others may read are not what a history is kept in.
    fs::create_dir(user.data()).unwrap();
    user.start_node(&[]);
    let process = user.node_process().expect("it runs");
    let descriptor = |number: u32| fs::read_link(format!("/proc/{process}/fd/{number}")).unwrap();
    // What its jobs print must have somewhere to go.
    assert_eq!(descriptor(1), user.data().join("node.log"));
    assert_eq!(descriptor(2), user.data().join("node.log"));
    #[cfg(unix)]
    for file in ["history.redb", "lock", "node.json", "node.log"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(user.data().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} can be read by others");
    }
    user.well(&["jobmanager", "stop"]);
}

#[test]
fn a_node_is_stopped_by_another_of_its_names_and_its_folder_is_free_then() {
    let mut user = User::new();
    let folder = user.home.path().join("elsewhere").display().to_string();
    user.start_node(&["--data-folder", &folder]);
    let address = user.address.replace("127.0.0.1", "localhost");
    user.well(&["jobmanager", "stop", "--address", &address, "--data-folder", &folder]);
    user.well(&["jobmanager", "start", "--daemon", "--address", "127.0.0.1:0", "--data-folder", &folder]);
    let said = user.types(&["jobmanager", "restart", "--data-folder", &folder, "--format", "json"]).with(0);
    user.address = said.json()["address"].as_str().unwrap().to_owned();
    fs::write(std::path::Path::new(&folder).join("node.json"), "{").unwrap();
    let said = user.types(&["jobmanager", "restart", "--data-folder", &folder]).with(2);
    assert!(said.err.contains("node.json"), "{said:?}");
    user.well(&["jobmanager", "stop", "--data-folder", &folder]);
}

#[test]
fn two_nodes_do_not_share_a_folder_nor_an_address() {
    let user = User::with_node();
    let held = user.node_process().expect("it runs");
    for flags in [&[][..], &["--daemon"]] {
        let said = user.types(&[&["jobmanager", "start", "--address", "127.0.0.1:0"], flags].concat()).with(1);
        assert!(said.err.contains(&format!("in use by another node (process {held})")), "{said:?}");
    }
    let other = user.home.path().join("other").display().to_string();
    let said = user.types(&["jobmanager", "start", "--data-folder", &other]).with(1);
    assert!(said.err.contains("cannot listen at") && said.err.contains("in use"), "{said:?}");
    user.well(&["jobmanager", "stop"]);
}

#[test]
fn what_is_no_history_is_refused_and_left_as_it_is() {
    let user = User::new();
    fs::create_dir(user.data()).unwrap();
    let history = user.data().join("history.redb");
    fs::write(&history, "letters to a friend").unwrap();
    for flags in [&[][..], &["--daemon"]] {
        let said = user.types(&[&["jobmanager", "start"], flags].concat()).with(1);
        assert!(said.err.contains("is not a history of proscenium"), "{said:?}");
    }
    assert_eq!(fs::read_to_string(&history).unwrap(), "letters to a friend");
    let blocked = user.file("blocked", "a file, not a folder").display().to_string();
    let said = user.types(&["jobmanager", "start", "--data-folder", &blocked]).with(1);
    assert!(said.err.contains("the data folder") && said.err.contains("cannot be used"), "{said:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_node_whose_log_cannot_be_written_serves_all_the_same() {
    let mut user = User::new();
    // Every write to it fails, as on a disk that is full.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = user.command(&["jobmanager", "start"]).stdout(Stdio::piped()).stderr(full).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let said = on_a_thread("the greeting", move || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    });
    let address = said.strip_prefix("serving at ").and_then(|rest| rest.split(' ').next());
    user.address = address.unwrap_or_else(|| panic!("it greets, {said:?}: {}", child.wait().unwrap())).to_owned();
    user.submits(&["ticker"]);
    user.well(&["jobmanager", "stop", "--cancel"]);
    let status = on_a_thread("the end of the node", move || child.wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn a_node_in_the_foreground_says_where_it_is_and_ends_by_a_signal() {
    let mut user = User::new();
    let mut child =
        user.command(&["jobmanager", "start"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let said = on_a_thread("the greeting", move || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    });
    let address = said.strip_prefix("serving at ").and_then(|rest| rest.split(' ').next()).expect("it greets");
    user.address = address.to_owned();
    user.submits(&["ticker"]);
    let process = child.id();
    assert!(Command::new("kill").args(["-TERM", &process.to_string()]).status().unwrap().success());
    let status = on_a_thread("the end of the node", move || child.wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn a_node_that_cannot_start_says_why_and_leaves_no_process() {
    let user = User::new();
    for (flags, code, part) in [
        (&["--address", "nowhere.invalid"][..], 1, "cannot listen at nowhere.invalid:19001"),
        (&["--address", "nowhere:http"], 2, "`http` is no port"),
        (&["--limit", "speed=9"], 2, "there is no limit `speed`"),
        (&["--tls-certificate", "no.pem", "--tls-key", "no.pem"], 2, "no.pem"),
        (&["--key-file", "/proc/nothing/key"], 1, "key"),
    ] {
        let said = user.types(&[&["jobmanager", "start", "--daemon"], flags].concat()).with(code);
        assert!(said.err.contains(part), "{said:?}");
        assert!(user.node_process().is_none(), "{flags:?}");
    }
}

#[test]
fn a_node_that_drains_for_too_long_is_not_waited_for() {
    let mut user = User::new();
    user.start_node(&["--limit", "port_items=1"]);
    let process = user.node_process().expect("it runs");
    let blocked = user.submits(&["ticker", r#"{"interval_ms": 1, "readable": true}"#]);
    // Nobody reads what it emits, so that once it has emitted more than there is room for, to drain it does not end.
    let is_full = || user.well(&["job", "explain", &blocked]).contains("output `ticks` has no reader");
    assert!((0..10_000).any(|_| is_full()), "it never comes to wait for a reader");
    let said = user.types(&["jobmanager", "stop", "--wait-timeout", "50ms"]).with(5);
    assert!(said.err.contains("jobmanager stop --cancel"), "{said:?}");
    assert!(user.well(&["job", "status", &blocked]).contains("draining"), "it can be asked all the same");
    let health = user.types(&["health"]).with(1);
    assert!(health.out.starts_with("accepts no jobs: it is stopping"), "{health:?}");
    let refused = user.types(&["job", "submit", "ticker"]).with(1);
    assert!(refused.err.contains("the environment is closed"), "{refused:?}");
    user.well(&["jobmanager", "stop", "--cancel"]);
    wait_for_end(process);
}

#[test]
fn the_log_of_a_node_in_the_background_is_begun_anew_when_it_is_full() {
    let mut user = User::new();
    let (log, old) = (user.data().join("node.log"), user.data().join("node.log.1"));
    let fill = |line: &str| {
        let mut file = fs::File::options().create(true).append(true).open(&log).unwrap();
        file.write_all(format!("{line}\n").repeat((17 << 20) / (line.len() + 1)).as_bytes()).unwrap();
    };
    let until = |what: &str, text: &str, path: &std::path::Path| {
        let (text, path) = (text.to_owned(), path.to_owned());
        on_a_thread(what, move || {
            while !fs::read(&path).is_ok_and(|log| log.windows(text.len()).any(|part| part == text.as_bytes())) {
                std::thread::yield_now();
            }
        });
    };
    fs::create_dir_all(user.data()).unwrap();
    fill("what an earlier node has told");
    user.start_node(&[]);
    until("the old log's being put aside", "what an earlier node", &old);
    // What jobs print goes there too, so it may be full without the node's having told anything.
    fill("what jobs print");
    until("the full log's being put aside", "what jobs print", &old);
    let job = user.submits(&["ticker", "--job-name", "after"]);
    until("what is told after that", &job, &log);
    assert!(fs::metadata(&log).unwrap().len() < 1 << 20, "it is a new one");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&log).unwrap().permissions()) & 0o777, 0o600);
    // Somebody who takes it away gets another.
    fs::remove_file(&log).unwrap();
    on_a_thread("another log", {
        let log = log.clone();
        move || {
            while !log.exists() {
                std::thread::yield_now();
            }
        }
    });
    user.well(&["jobmanager", "stop", "--cancel"]);
    until("the end", "ended", &log);
}
