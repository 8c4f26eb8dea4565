use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, SystemTime},
};

use super::*;
use crate::{
    bridge::Key,
    job::{DeadLetter, DeadLetters, JobState, JobStatus, Outcome},
    node::Node,
};

fn job(id: JobId, outcome: Option<Outcome>) -> PlainJob {
    let ended = outcome.is_some();
    let status = JobStatus {
        id,
        name: "count".to_owned(),
        state: if ended { JobState::Ended } else { JobState::Running },
        outcome,
        autostop: true,
        version: 7,
        task_count: usize::from(!ended),
        service_count: 0,
        restarts: 1,
        attempt: 1,
        last_failure: None,
        dead_letters: 1,
        warnings: Vec::new(),
        submitted_at: SystemTime::now(),
        started_at: Some(SystemTime::now()),
        ended_at: ended.then(SystemTime::now),
        lease: None,
        held_by: None,
        tasks: Vec::new(),
        services: Vec::new(),
    };
    let letter = DeadLetter { operator: "map".to_owned(), instance: 0, position: 3, cause: "odd".to_owned() };
    let dead_letters = DeadLetters { total: 1, newest: vec![letter] };
    PlainJob { status, dead_letters, graph: Arc::default(), inputs_finished: vec!["in".to_owned()] }
}

/// Waits until the order was carried out.
fn done(order: impl FnOnce(Recorded)) -> Result<(), String> {
    let (tx, rx) = mpsc::channel();
    order(Box::new(move |recorded| tx.send(recorded).expect("it is waited for")));
    let recorded = rx.recv_timeout(std::time::Duration::from_secs(30)).expect("an order is answered");
    recorded.map_err(|error| error.to_string())
}

fn keep(store: &mut Store, job: PlainJob) {
    done(|recorded| store.keep(Kept::Live(Box::new(job)), recorded)).expect("it can be written");
}

/// A folder with a history of `jobs`.
fn folder_with(jobs: &[PlainJob]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut store, _) = Store::open_parts(folder.path()).expect("a new history");
    for job in jobs {
        keep(&mut store, job.clone());
    }
    folder
}

fn jobs_in(folder: &Path) -> Vec<PlainJob> {
    Store::open_parts(folder).expect("a history").1
}

fn history_of(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join(HISTORY)
}

#[test]
fn what_was_kept_is_there_again_but_what_was_forgotten() {
    let [kept, forgotten] = [0, 1].map(|_| job(JobId::random(), Some(Outcome::Completed)));
    let folder = folder_with(&[kept.clone(), forgotten.clone()]);
    let (mut store, jobs) = Store::open_parts(folder.path()).expect("the same history");
    assert_eq!(jobs.len(), 2);
    done(|recorded| store.forget(vec![forgotten.status.id], recorded)).expect("it can be written");
    drop(store);
    assert_eq!(jobs_in(folder.path()), [kept]);
}

#[test]
fn a_job_that_was_running_is_lost_and_stays_so() {
    let folder = folder_with(&[job(JobId::random(), None)]);
    let jobs = jobs_in(folder.path());
    let status = &jobs[0].status;
    assert!(
        matches!(&status.outcome, Some(Outcome::Lost { reason }) if reason.contains("process ended")),
        "{status:?}"
    );
    assert_eq!((status.state, status.task_count), (JobState::Ended, 0));
    assert!(status.ended_at.is_some());
    assert_eq!(jobs_in(folder.path()), jobs);
}

#[test]
fn whatever_the_clock_says_when_a_node_starts_its_jobs_read_as_they_were_written() {
    let day = Duration::from_secs(24 * 60 * 60);
    let ended = |moved: &dyn Fn(SystemTime) -> SystemTime, outcome| {
        let mut job = job(JobId::random(), Some(outcome));
        let JobStatus { submitted_at, started_at, ended_at, .. } = &mut job.status;
        *submitted_at = moved(*submitted_at);
        (*started_at, *ended_at) = (started_at.map(moved), ended_at.map(moved));
        job
    };
    // By today's clock they ended yesterday, in ten years, and before they began.
    let yesterday = ended(&|at| at - day, Outcome::Completed);
    let in_ten_years = ended(&|at| at + 3_650 * day, Outcome::Stopped);
    let mut backwards = ended(&|at| at, Outcome::Stopped);
    backwards.status.ended_at = backwards.status.ended_at.map(|at| at - day);
    let mut running = job(JobId::random(), None);
    running.status.submitted_at += 3_650 * day;
    running.status.started_at = None;
    let folder = folder_with(&[in_ten_years.clone(), running.clone(), backwards.clone(), yesterday.clone()]);
    // Again and again, for nothing of it is to change by being read.
    for _ in 0..3 {
        let node = Node::builder().without_listener().key(Key::generate()).data_folder(folder.path());
        let node = node.open().expect("a node");
        let env = node.connect("test").blocking().expect("it is there");
        let read = env.blocking().jobs().expect("it answers");
        assert_eq!(read.len(), 4);
        for job in &read {
            let before = [&yesterday, &in_ten_years, &backwards].into_iter().find(|before| before.status.id == job.id);
            match before {
                Some(before) => assert_eq!(*job, before.status),
                None => assert!(matches!(job.outcome, Some(Outcome::Lost { .. })), "{job:?}"),
            }
        }
        env.blocking().close();
        drop(node);
    }
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = folder_with(&[]);
    let held = Store::open_parts(folder.path()).expect("it is free");
    let refused = Store::open_parts(folder.path()).map(drop);
    let process = format!("process {}", std::process::id());
    assert_eq!(refused, Err(HistoryError::InUse { folder: folder.path().to_owned(), holder: process }));
    drop(held);
    assert!(Store::open_parts(folder.path()).is_ok());
}

#[test]
fn a_path_that_is_no_folder_is_refused() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let refused = Store::open_parts(&file.path().join("in-it")).map(drop);
    assert!(matches!(refused, Err(HistoryError::Folder { .. })), "{refused:?}");
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    for content in [&b"not a store at all"[..], &[7; 100_000], b"redb"] {
        let folder = folder_with(&[]);
        fs::write(history_of(&folder), content).expect("it can be overwritten");
        let refused = Store::open_parts(folder.path()).map(drop);
        let is_clear = matches!(refused, Err(HistoryError::Foreign { .. } | HistoryError::Damaged { .. }));
        assert!(is_clear, "{refused:?}");
        assert_eq!(fs::read(history_of(&folder)).expect("it is there"), content);
    }
}

#[test]
fn a_store_of_another_program_is_refused_and_left_as_it_is() {
    let folder = folder_with(&[]);
    let path = history_of(&folder);
    fs::remove_file(&path).expect("it is there");
    redb::Database::create(&path).and_then(redb::Database::close).expect("a store");
    let before = fs::read(&path).expect("it is there");
    let refused = Store::open_parts(folder.path()).map(drop);
    assert!(matches!(refused, Err(HistoryError::Foreign { .. })), "{refused:?}");
    assert!(fs::read(&path).expect("it is there") == before);
}

#[test]
fn a_history_of_another_format_is_refused() {
    let folder = folder_with(&[]);
    let path = history_of(&folder);
    let store = redb::Database::open(&path).expect("a store");
    let transaction = store.begin_write().expect("a transaction");
    let table = redb::TableDefinition::<&str, &str>::new("proscenium");
    transaction.open_table(table).expect("a table").insert("history format", "2").expect("it is written");
    transaction.commit().expect("it is written");
    drop(store);
    let refused = Store::open_parts(folder.path()).map(drop);
    assert!(matches!(&refused, Err(HistoryError::Format { found, .. }) if found == "2"), "{refused:?}");
}

#[test]
fn a_truncated_history_is_refused_or_whole_and_left_as_it_is() {
    let jobs: Vec<_> = (0..50).map(|_| job(JobId::random(), Some(Outcome::Completed))).collect();
    let folder = folder_with(&jobs);
    let whole = fs::read(history_of(&folder)).expect("it is there");
    let cuts = (0..40).map(|n| whole.len() * n / 40).chain([1, 4, 64, 319, 320, 4095, 4096, whole.len() - 1]);
    for cut in cuts.filter(|cut| *cut > 0) {
        fs::write(history_of(&folder), &whole[..cut]).expect("it can be overwritten");
        match Store::open_parts(folder.path()) {
            Ok((_, read)) => {
                assert_eq!(read.len(), jobs.len(), "cut at {cut}: part of the history is taken for the whole")
            }
            Err(HistoryError::Damaged { .. } | HistoryError::Foreign { .. }) => {
                assert!(fs::read(history_of(&folder)).expect("it is there") == whole[..cut], "changed: cut at {cut}");
            }
            Err(other) => panic!("cut at {cut}: {other}"),
        }
    }
}

#[test]
fn a_damaged_history_never_reads_otherwise_than_it_was_written() {
    let jobs: Vec<_> = (0..50).map(|_| job(JobId::random(), Some(Outcome::Completed))).collect();
    let folder = folder_with(&jobs);
    let whole = fs::read(history_of(&folder)).expect("it is there");
    let used = whole.iter().rposition(|byte| *byte != 0).expect("it is not empty");
    for at in (0..used).step_by(used / 200) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(history_of(&folder), &damaged).expect("it can be overwritten");
        if let Ok((_, read)) = Store::open_parts(folder.path()) {
            assert_eq!(read.len(), jobs.len(), "byte {at}");
        }
    }
}

#[test]
fn a_history_that_was_not_closed_is_repaired() {
    let jobs: Vec<_> = (0..10).map(|_| job(JobId::random(), Some(Outcome::Completed))).collect();
    let folder = folder_with(&jobs);
    let (mut store, _) = Store::open_parts(folder.path()).expect("a history");
    let late = job(JobId::random(), Some(Outcome::Stopped));
    keep(&mut store, late.clone());
    // As the disk looks to whoever comes after a process that was killed.
    let copy = tempfile::tempdir().expect("a folder");
    fs::copy(history_of(&folder), copy.path().join(HISTORY)).expect("it can be copied");
    drop(store);
    let read = jobs_in(copy.path());
    assert_eq!(read.len(), 11);
    assert!(read.contains(&late));
    let left: Vec<_> = fs::read_dir(copy.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn ends_that_were_kept_back_are_there_again_until_they_are_cleared() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = super::reserve::file_in(folder.path());
    let jobs: Vec<PlainJob> = (0..200).map(|_| job(JobId::random(), Some(Outcome::Stopped))).collect();
    let ends: Vec<Vec<u8>> = jobs.iter().map(|job| super::reserve::end_of(job, &encode(job))).collect();
    let (mut reserve, _) = Reserve::open(path.clone()).expect("a new one");
    assert!(reserve.append(ends.iter().map(Vec::as_slice)).is_err(), "no room was kept back");
    reserve.provide(jobs.len()).expect("there is room");
    let provided = fs::metadata(&path).expect("it is there").len();
    for end in &ends {
        reserve.append(std::iter::once(end.as_slice())).expect("room was kept back");
    }
    assert_eq!(fs::metadata(&path).expect("it is there").len(), provided, "it takes no more room");
    drop(reserve);
    let (mut reserve, again) = Reserve::open(path.clone()).expect("it is there");
    assert_eq!(again, jobs);
    reserve.clear().expect("it can be written");
    reserve.append(std::iter::once(ends[0].as_slice())).expect("there is room");
    let (_, again) = Reserve::open(path).expect("it is there");
    assert_eq!(again, jobs[..1], "what was cleared does not come back");
}

#[test]
fn an_end_that_broke_off_is_none_and_those_before_it_stand() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = super::reserve::file_in(folder.path());
    let jobs: Vec<PlainJob> = (0..3).map(|_| job(JobId::random(), Some(Outcome::Completed))).collect();
    let (mut reserve, _) = Reserve::open(path.clone()).expect("a new one");
    reserve.provide(jobs.len()).expect("there is room");
    let mut ends_at = vec![24];
    for job in &jobs {
        let end = super::reserve::end_of(job, &encode(job));
        reserve.append(std::iter::once(end.as_slice())).expect("there is room");
        ends_at.push(ends_at[ends_at.len() - 1] + 12 + end.len());
    }
    drop(reserve);
    let whole = fs::read(&path).expect("it is there");
    for cut in 0..ends_at[3] + 10 {
        let mut broken = whole.clone();
        broken[cut..].fill(0);
        fs::write(&path, &broken).expect("it can be written");
        let (_, again) = Reserve::open(path.clone()).expect("it can be read");
        let whole_records = ends_at[1..].iter().filter(|end| **end <= cut).count();
        // A byte that was zero before is none that was lost.
        assert!(again.len() >= whole_records.min(jobs.len()) || cut < 24, "cut at {cut}: {}", again.len());
        assert_eq!(again, jobs[..again.len()], "cut at {cut}");
    }
}

#[test]
fn the_ends_of_jobs_whose_names_take_much_room_are_as_short_as_others() {
    for name in ["\u{1}", "\u{1f3ad}", "\"", "a"].map(|text| text.repeat(256)) {
        let cause = crate::job::FailureCause::Abandoned { what: vec![name.clone(); 100] };
        let mut large = job(JobId::random(), Some(Outcome::Failed(cause)));
        large.status.name = name;
        let end = super::reserve::end_of(&large, &encode(&large));
        assert!(end.len() + 12 <= super::reserve::END_BYTES_MAX, "{}", end.len());
        assert_eq!(decode(&end).expect("it is a job").status.id, large.status.id);
    }
}

#[test]
fn no_ends_take_no_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut reserve, _) = Reserve::open(super::reserve::file_in(folder.path())).expect("a new one");
    reserve.append(std::iter::empty()).expect("there is nothing to be written");
}

#[test]
fn the_end_of_a_job_that_takes_much_room_is_kept_without_what_makes_it_large() {
    let message = "a very long story ".repeat(10_000);
    let cause = crate::job::FailureCause::Operator { operator: message.clone(), instance: 3, position: 7, message };
    let mut large = job(JobId::random(), Some(Outcome::Failed(cause)));
    large.status.name = "\u{1}".repeat(256);
    large.dead_letters.newest = vec![large.dead_letters.newest[0].clone(); 1_000];
    let end = super::reserve::end_of(&large, &encode(&large));
    assert!(end.len() + 12 <= super::reserve::END_BYTES_MAX, "{}", end.len());
    let kept = decode(&end).expect("it is a job");
    assert_eq!((kept.status.id, kept.status.ended_at), (large.status.id, large.status.ended_at));
    let text = kept.status.outcome.expect("it has ended").to_string();
    assert!(text.contains("instance 3) failed at item 7: a very long story"), "{text}");
}
