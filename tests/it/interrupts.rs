//! Ctrl+C under `run`. A signal goes to a whole process, so the run takes place in a child process.
#![cfg(unix)]

use std::{
    env,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use proscenium::{LocalEnvironment, job_fn};

use crate::support::{Door, Doorway, block_on, on_a_thread};

/// Set in the child process: where its operator waits, and whether it blocks its thread meanwhile.
const WAITING: &str = "PROSCENIUM_TEST_INTERRUPTED";

/// What the child process does; without effect in the parent.
#[test]
fn the_child_runs_an_endless_job_and_tells_each_change() {
    let Ok(waiting) = env::var(WAITING) else { return };
    let (door, blocks): (Doorway, bool) = serde_json::from_str(&waiting).unwrap();
    let env = LocalEnvironment::builder("interrupted").task_threads(1).open().unwrap();
    let (ids, id) = mpsc::channel();
    let endless = job_fn("endless", move |flow| {
        let (ids, door) = (ids.clone(), door.clone());
        let numbers = flow.from_batch(0u64..).map_async(1, async move |ctx, n| {
            match n {
                9 => ids.send(ctx.job())?,
                10 if blocks => door.pass_blocking(n),
                10 => door.pass(n).await,
                _ => {}
            }
            Ok(n)
        });
        numbers.count().for_each(drop);
        Ok(())
    });
    let watched = env.clone();
    let watcher = thread::spawn(move || {
        let job = watched.blocking().job(id.recv().unwrap()).unwrap();
        job.blocking().watch().for_each(|status| println!("change: {}", status.unwrap().state));
    });
    let ended = env.run(endless).blocking();
    watcher.join().unwrap();
    match ended {
        Ok(drained) => println!("outcome: {drained}"),
        Err(error) => println!("outcome: {error}"),
    }
}

/// The child process, and what it says.
struct Interrupted {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Interrupted {
    fn start(door: &Door, blocks: bool) -> Self {
        let test = "interrupts::the_child_runs_an_endless_job_and_tells_each_change";
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads", "1"])
            .env(WAITING, serde_json::to_string(&(door.way(), blocks)).unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn interrupt(&self) {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Reads on until it says `expected`.
    fn says(mut self, expected: &'static str) -> Self {
        on_a_thread(expected, move || {
            loop {
                let mut line = String::new();
                assert!(self.stdout.read_line(&mut line).unwrap() > 0, "it ended and never said `{expected}`");
                if line.trim_end().ends_with(expected) {
                    return self;
                }
            }
        })
    }

    /// Its outcome, exit status, and what it said on standard error.
    fn end(mut self) -> (Option<String>, ExitStatus, String) {
        on_a_thread("the child's end", move || {
            let mut lines = self.stdout.lines().map_while(Result::ok);
            let outcome = lines.find_map(|line| Some(line.split_once("outcome: ")?.1.to_owned()));
            // To the end, or else the child could not write any more.
            lines.for_each(drop);
            let mut errors = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            (outcome, self.child.wait().unwrap(), errors)
        })
    }
}

#[test]
fn the_first_ctrl_c_stops_the_job() {
    block_on(async {
        let door = Door::new().await;
        let run = Interrupted::start(&door, false);
        let visitor = door.arrival().await;
        let run = run.says("change: running");
        run.interrupt();
        let run = run.says("change: draining");
        visitor.admit();
        let (outcome, status, errors) = run.end();
        assert_eq!(outcome.as_deref(), Some("stopped"), "{errors}");
        assert!(status.success());
    });
}

#[test]
fn the_second_ctrl_c_cancels_the_job() {
    block_on(async {
        let door = Door::new().await;
        let run = Interrupted::start(&door, false);
        let visitor = door.arrival().await;
        let run = run.says("change: running");
        run.interrupt();
        let run = run.says("change: draining");
        run.interrupt();
        let (outcome, status, errors) = run.end();
        assert!(
            outcome.as_deref().is_some_and(|it| it.starts_with("the job was cancelled (requested)")),
            "{outcome:?} {errors}"
        );
        assert!(status.success());
        drop(visitor);
    });
}

#[test]
fn the_third_ctrl_c_exits_with_130_and_the_jobs_id() {
    block_on(async {
        let door = Door::new().await;
        // Its thread is blocked, so that not even a cancel ends the job before its deadline.
        let run = Interrupted::start(&door, true);
        let visitor = door.arrival().await;
        let run = run.says("change: running");
        run.interrupt();
        let run = run.says("change: draining");
        run.interrupt();
        let run = run.says("change: draining");
        run.interrupt();
        let (outcome, status, errors) = run.end();
        assert_eq!((outcome, status.code()), (None, Some(130)));
        assert!(errors.contains("interrupted three times: exiting; the job was job-"), "{errors}");
        drop(visitor);
    });
}
