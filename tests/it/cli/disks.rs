//! Data folders on disks that are full or cannot be written to. They take a disk of their own, which only root can mount;
//! so these run where the gate says that they can.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{User, count};

/// A small disk in memory.
struct Disk<'a> {
    folder: &'a Path,
}

impl<'a> Disk<'a> {
    fn mounted(folder: &'a Path) -> Self {
        fs::create_dir_all(folder).expect("the folder can be made");
        mount(&["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"], folder);
        Self { folder }
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.folder).status();
    }
}

fn mount(options: &[&str], folder: &Path) {
    let status = Command::new("mount").args(options).arg(folder).status().expect("there is a `mount`");
    assert!(status.success(), "{options:?}");
}

fn is_asked_for() -> bool {
    std::env::var_os("PROSCENIUM_MOUNTS").is_some()
}

/// Fills what is left, byte by byte in the end: the history may still use what it has.
fn fill(data: &Path) -> PathBuf {
    let filler = data.join("filler");
    let mut size = 256 << 10;
    while size > 0 {
        let mut file = fs::File::options().create(true).append(true).open(&filler).expect("it can be opened");
        if std::io::Write::write_all(&mut file, &vec![1; size]).is_err() {
            size /= 2;
        }
    }
    filler
}

#[test]
fn a_full_disk_and_then_a_crash_lose_no_end_that_was_told_and_the_node_starts() {
    // The job read `lost` afterwards, and the node did not start before there was room.
    if !is_asked_for() {
        return;
    }
    let mut user = User::new();
    let (data, text) = (user.data(), user.file("text", "a b\n"));
    let _disk = Disk::mounted(&data);
    user.start_node(&[]);
    let ids: Vec<String> = (0..20).map(|_| user.submits(&["ticker"])).collect();
    let filler = fill(&data);
    // Until nothing more goes into the history.
    while user.types(&["job", "submit", "word-count", &count(&text), "--autostop"]).code == Some(0) {}
    for id in &ids[1..] {
        assert_eq!(user.types(&["job", "stop", id, "--wait"]).with(11).out, "stopped\n", "its end is told");
    }
    user.kills_node();
    let full = user.types(&["health"]);
    assert_eq!(full.code, Some(3), "{full:?}");
    user.start_node(&[]);
    for id in &ids[1..] {
        assert!(user.types(&["job", "status", id]).well().contains("stopped"), "what was told holds");
    }
    assert!(user.types(&["job", "status", &ids[0]]).well().contains("lost"));
    let refused = user.types(&["job", "submit", "word-count", &count(&text), "--autostop"]).with(1);
    assert!(refused.err.contains("No space left on device"), "{refused:?}");
    assert!(user.types(&["health"]).with(1).out.contains("No space left on device"));
    fs::remove_file(&filler).expect("it is there");
    user.submits(&["word-count", &count(&text), "--autostop", "--wait"]);
    assert!(user.types(&["health"]).well().starts_with("accepts jobs"));
    user.kills_node();
    user.start_node(&[]);
    for id in &ids[1..] {
        assert!(user.types(&["job", "status", id]).well().contains("stopped"), "it is in the history by now");
    }
    user.well(&["jobmanager", "stop"]);
}

#[test]
fn a_full_disk_refuses_jobs_and_loses_none() {
    if !is_asked_for() {
        return;
    }
    let mut user = User::new();
    let (data, text) = (user.data(), user.file("text", "a b\n"));
    let _disk = Disk::mounted(&data);
    user.start_node(&[]);
    let running = user.submits(&["ticker"]);
    let before = user.submits(&["word-count", &count(&text), "--autostop", "--wait"]);
    let filler = fill(&data);
    let mut accepted = Vec::new();
    let refused = loop {
        let said = user.types(&["job", "submit", "word-count", &count(&text), "--autostop"]);
        match said.code {
            Some(0) if accepted.len() < 200 => accepted.push(said.out.trim().to_owned()),
            _ => break said.with(1),
        }
    };
    assert!(refused.err.contains("No space left on device"), "{refused:?}");
    assert!(user.types(&["job", "status", &running]).well().contains("running"), "what runs goes on");
    assert_eq!(user.types(&["job", "stop", &running, "--wait"]).with(11).out, "stopped\n", "its end is told");
    fs::remove_file(&filler).expect("it is there");
    user.submits(&["word-count", &count(&text), "--autostop", "--wait"]);
    assert!(user.types(&["health"]).well().starts_with("accepts jobs"));
    // Killed, so that nothing is written that was not written before.
    user.kills_node();
    user.start_node(&[]);
    assert!(user.well(&["job", "status", &running]).contains("stopped"), "its end was written once there was room");
    assert!(user.well(&["job", "status", before.lines().next().expect("the id")]).contains("completed"));
    let list = user.well(&["job", "list", "--format", "json"]);
    let kept: Vec<&String> = accepted.iter().filter(|id| list.contains(*id)).collect();
    assert_eq!(kept.len(), accepted.len(), "what was accepted is in the history");
    assert_eq!(list.matches("\"id\":\"job-").count(), accepted.len() + 3, "and what was refused is not");
    user.well(&["jobmanager", "stop"]);
}

#[test]
fn a_disk_that_cannot_be_written_to_is_refused_and_left_as_it_is() {
    if !is_asked_for() {
        return;
    }
    let mut user = User::new();
    let data = user.data();
    let _disk = Disk::mounted(&data);
    user.start_node(&[]);
    let id = user.submits(&["word-count", &count(&user.file("text", "a\n")), "--autostop", "--wait"]);
    user.well(&["jobmanager", "stop"]);
    let history = fs::read(data.join("history.redb")).expect("it is there");
    mount(&["-o", "remount,ro"], &data);
    for flags in [&[][..], &["--daemon"]] {
        let said = user.types(&[&["jobmanager", "start", "--address", "127.0.0.1:0"], flags].concat()).with(1);
        assert!(said.err.contains("Read-only file system"), "{said:?}");
    }
    assert_eq!(fs::read(data.join("history.redb")).expect("it is there"), history);
    mount(&["-o", "remount,rw"], &data);
    user.start_node(&[]);
    assert!(user.well(&["job", "status", id.lines().next().expect("the id")]).contains("completed"));
    user.well(&["jobmanager", "stop"]);
}
