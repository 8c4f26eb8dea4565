//! Worker processes, kept running until the environment that they belong to is closed.
//!
//! All of them are started by one thread, which lives as long as they do: the operating system ends a child with the
//! *thread* that started it. On that thread each has a keeper, which takes in what the process prints, notices its end by
//! the end of their common socket, and starts it again.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream as StdUnixStream, process::CommandExt},
    },
    pin::pin,
    process::Child,
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use futures::future::{Either, join_all, select};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf, pipe},
    },
    sync::{oneshot, watch},
};

use super::{
    Launch, Unjoined,
    orders::{CLOSED, FLAG, JOINED, Orders},
    program::Program,
};
use crate::host::{Host, thread};

/// The wait before a process that has ended is started again: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A process that has lived for so long is started again as if it were the first time.
const LONG_LIFE: Duration = Duration::from_secs(30);

/// How long a process may take to end that was asked to.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How long the rest of what an ended process printed is waited for: others may have its output open.
const REST_LIMIT: Duration = Duration::from_secs(1);

/// Bytes of a line that are told at once; a longer one is told in pieces.
const LINE_BYTES_MAX: u64 = 8 << 10;

/// Bytes that a process may answer.
const ANSWERS_BYTES_MAX: u64 = 64 << 10;

/// Lines that are kept of what each process printed last.
const LAST_WORDS: usize = 5;

/// So often a process may end before it joined, until it is said to be of no use.
const ATTEMPTS_MAX: u32 = 3;

/// The processes of one environment. Dropping it has them end, and waits until they have.
pub(crate) struct Launcher {
    /// Dropped once they are to end.
    orders: Option<watch::Sender<()>>,
    standings: watch::Receiver<Vec<Standing>>,
    thread: Option<JoinHandle<()>>,
}

/// How one of them is doing.
#[derive(Debug, Clone, Default)]
struct Standing {
    /// By which number it has joined.
    joined: Option<u32>,
    /// It has ended so often since it last joined.
    failures: u32,
    /// How it ended last, and what it had printed.
    last_words: String,
}

impl Launcher {
    /// Starts the thread that starts the processes.
    ///
    /// # Errors
    ///
    /// The operating system refuses a thread or a descriptor.
    pub(crate) fn start(launch: Launch) -> io::Result<Self> {
        let runtime = thread::runtime()?;
        let (orders, is_over) = watch::channel(());
        let (standing, standings) = watch::channel(vec![Standing::default(); launch.count]);
        let name = launch.thread_name.clone();
        let thread = thread::start(name, move || {
            let launch = Arc::new(launch);
            let keepers = (0..launch.count).map(|index| Keeper {
                index,
                name: format!("worker-{}", index + 1),
                launch: Arc::clone(&launch),
                standing: standing.clone(),
                is_over: is_over.clone(),
            });
            thread::run_local(&runtime, join_all(keepers.map(Keeper::run)));
            runtime.shutdown_background();
        })?;
        Ok(Self { orders: Some(orders), standings, thread: Some(thread) })
    }

    /// Ready once all of the processes have joined, or it is known that they will not.
    ///
    /// # Errors
    ///
    /// One has ended again and again without joining, or not all have joined before the limit.
    pub(crate) async fn all_joined(&self, host: &Host, limit: Duration) -> Result<(), Unjoined> {
        let mut standings = self.standings.clone();
        let is_decided = |standings: &Vec<Standing>| {
            standings.iter().all(|standing| standing.joined.is_some())
                || standings.iter().any(|standing| standing.failures >= ATTEMPTS_MAX)
        };
        // Either error says that they are not going to join: it is seen below.
        let _ = host.timeout(limit, standings.wait_for(is_decided)).await.map(|decided| decided.map(drop));
        let standings = self.standings.borrow();
        let joined = standings.iter().filter(|standing| standing.joined.is_some()).count();
        if joined == standings.len() {
            return Ok(());
        }
        let last_words = standings.iter().filter(|standing| standing.joined.is_none());
        let last_words = last_words.map(|standing| standing.last_words.clone()).filter(|words| !words.is_empty());
        Err(Unjoined { joined, last_words: last_words.collect() })
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the worker processes panicked");
        }
    }
}

/// Keeps one process running.
struct Keeper {
    index: usize,
    name: String,
    launch: Arc<Launch>,
    standing: watch::Sender<Vec<Standing>>,
    /// Its sender is dropped once the process is to end.
    is_over: watch::Receiver<()>,
}

impl Keeper {
    async fn run(self) {
        let host = &self.launch.host;
        let mut pause = PAUSE_MIN;
        loop {
            let started = host.now();
            match self.start().await {
                Ok(process) => {
                    let Some(end) = self.attend(process).await else { return };
                    tracing::warn!(worker = self.name, end, "a worker process ended");
                }
                Err(error) => {
                    tracing::error!(worker = self.name, %error, "a worker process could not be started");
                    self.failed(format!("{} could not be started: {error}", self.name));
                }
            }
            if host.since(started) >= LONG_LIFE {
                pause = PAUSE_MIN;
            }
            if let Either::Left(_) = select(pin!(self.over()), pin!(host.sleep(pause))).await {
                return;
            }
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// Ready once the process is to end.
    async fn over(&self) {
        // Nothing is ever sent: this ends by the error that the sender is gone.
        while self.is_over.clone().changed().await.is_ok() {}
    }

    async fn start(&self) -> io::Result<Process> {
        let Launch { program, slots, memory_max, manager, key, .. } = &*self.launch;
        let mut process = Process::start(program, &self.name)?;
        let (name, manager, key) = (self.name.clone(), manager.clone(), key.clone());
        let orders = Orders { name, manager, key, slots: *slots, memory_max: *memory_max };
        // It may end before it reads them, which is noticed next.
        let _ = process.orders.write_all(orders.to_text().as_bytes()).await;
        Ok(process)
    }

    /// Follows the process to its end, which is returned in words; nothing, if it was to end.
    async fn attend(&self, process: Process) -> Option<String> {
        let Process { mut child, orders, answers, output } = process;
        let last_words = LastWords::default();
        let (told, mut all_told) = oneshot::channel::<()>();
        let teller = self.launch.host.spawn_local({
            let (name, last_words) = (self.name.clone(), last_words.clone());
            async move {
                tell_lines(&name, output, &last_words).await;
                drop(told);
            }
        });
        let is_over = {
            let end = pin!(self.hear(answers));
            match select(end, pin!(self.over())).await {
                Either::Left((is_over, _)) => is_over,
                Either::Right(((), end)) => {
                    // The end of its orders is the order to end.
                    drop(orders);
                    if self.launch.host.timeout(END_LIMIT, end).await.is_err() {
                        tracing::warn!(worker = self.name, "a worker process does not end, and is killed");
                    }
                    true
                }
            }
        };
        let end = reap(&mut child);
        let _ = self.launch.host.timeout(REST_LIMIT, &mut all_told).await;
        teller.abort();
        if is_over {
            return None;
        }
        let joined = self.standing.borrow()[self.index].joined;
        if let Some(number) = joined {
            (self.launch.ended)(number, &format!("its process ended: {end}"));
        }
        let said = last_words.take();
        self.failed(if said.is_empty() {
            format!("{} ended: {end}", self.name)
        } else {
            format!("{} ended: {end}; it said: {said}", self.name)
        });
        Some(end)
    }

    /// Takes in what the process answers, until its end. Whether it ended because its environment is closed.
    async fn hear(&self, answers: OwnedReadHalf) -> bool {
        let mut answers = BufReader::new(answers.take(ANSWERS_BYTES_MAX)).lines();
        let mut is_over = false;
        while let Ok(Some(answer)) = answers.next_line().await {
            is_over |= answer == CLOSED;
            if let Some(joined) = answer.strip_prefix(JOINED).and_then(|number| number.parse().ok()) {
                self.tell(|standing| *standing = Standing { joined: Some(joined), ..Standing::default() });
            }
        }
        is_over
    }

    fn failed(&self, last_words: String) {
        self.tell(|standing| {
            *standing = Standing { joined: None, failures: standing.failures + 1, last_words };
        });
    }

    fn tell(&self, change: impl FnOnce(&mut Standing)) {
        self.standing.send_modify(|standings| change(&mut standings[self.index]));
    }
}

/// A process that runs.
struct Process {
    child: Child,
    /// The two halves of the socket whose other end is its standard input.
    orders: OwnedWriteHalf,
    answers: OwnedReadHalf,
    /// What it prints, on either way.
    output: pipe::Receiver,
}

impl Process {
    fn start(program: &Program, name: &str) -> io::Result<Self> {
        let (here, there) = StdUnixStream::pair()?;
        here.set_nonblocking(true)?;
        let (answers, orders) = UnixStream::from_std(here)?.into_split();
        let (output, prints) = io::pipe()?;
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
        let mut command = program.command();
        command.args([FLAG, &std::process::id().to_string(), name]);
        // It has a key of its own, and what the jobs start there has none.
        command.env_remove("PROSCENIUM_KEY").env_remove("PROSCENIUM_KEY_FILE");
        // Ctrl+C is for this process, which may have jobs to drain.
        command.process_group(0);
        command.stdin(OwnedFd::from(there)).stdout(prints.try_clone()?).stderr(prints);
        // With it go this process's copies of the child's ends.
        let child = command.spawn()?;
        Ok(Self { child, orders, answers, output })
    }
}

/// Takes in how a process ended whose socket has been closed, or that is to be killed. It is one or the other: a process that
/// goes on without its socket could never be told to end.
fn reap(child: &mut Child) -> String {
    // To one that has ended already it does nothing.
    let ended = child.kill().and_then(|()| child.wait());
    ended.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// What a process printed last.
#[derive(Clone, Default)]
struct LastWords(Rc<RefCell<VecDeque<String>>>);

impl LastWords {
    fn add(&self, line: &str) {
        let mut lines = self.0.borrow_mut();
        if lines.len() == LAST_WORDS {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    fn take(&self) -> String {
        self.0.take().into_iter().collect::<Vec<_>>().join(" / ")
    }
}

/// Tells the log what a process prints, until it cannot print any more.
async fn tell_lines(name: &str, output: impl AsyncRead + Unpin, last_words: &LastWords) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut output).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
        if !matches!(read, Ok(1..)) {
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !text.is_empty() {
            tracing::info!("{name}: {text}");
            last_words.add(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::blocking::block_on;

    const LIMIT: Duration = Duration::from_secs(20);

    /// `sh` with these words as its script, which finds `--proscenium-worker`, the parent and the name in `$0 $1 $2`.
    fn launch(count: usize, host: &Host, script: &str) -> (tempfile::TempDir, Launch) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        // By another process: one that this one has open for writing cannot be run.
        let write = "printf '#!/bin/sh\n%s\n' \"$2\" > \"$1\" && chmod 700 \"$1\"";
        let written = std::process::Command::new("sh").args(["-c", write, "sh"]).arg(&path).arg(script).status();
        assert!(written.unwrap().success());
        let launch = Launch {
            program: Program::at(Path::new(&path)).unwrap(),
            count,
            slots: 2,
            memory_max: Some(5 << 20),
            manager: "127.0.0.1:1".to_owned(),
            key: "00".repeat(32),
            thread_name: "launch".to_owned(),
            host: host.clone(),
            ended: Arc::new(|_, _| ()),
        };
        (folder, launch)
    }

    #[test]
    fn processes_get_their_orders_join_and_end_when_they_are_to() {
        let (host, timer) = Host::of_tests();
        let script = "read version; read name; read manager; read key; read slots; read memory\n\
                      test \"$name\" = \"name $3\" -a \"$slots\" = 'slots 2' -a \"$memory\" = 'memory 5242880' -a $2 = $PPID || exit 9\n\
                      echo joined 7 >&0; while read rest; do :; done";
        let (_folder, launch) = launch(3, &host, script);
        let launcher = Launcher::start(launch).unwrap();
        assert_eq!(block_on(launcher.all_joined(&host, LIMIT)), Ok(()));
        drop(launcher);
        timer.stop_and_join();
    }

    #[test]
    fn one_that_ends_is_told_and_started_again() {
        let (host, timer) = Host::of_tests();
        let (ended, ends) = std::sync::mpsc::channel();
        let (_folder, mut launch) = launch(1, &host, "echo joined $$ >&0; exit 3");
        launch.ended = Arc::new(move |number, why: &str| ended.send((number, why.to_owned())).unwrap());
        let launcher = Launcher::start(launch).unwrap();
        let [first, second] = [0; 2].map(|_| ends.recv_timeout(LIMIT).unwrap());
        assert_eq!(first.1, "its process ended: exit status: 3");
        assert_ne!(first.0, second.0, "each is another worker");
        drop(launcher);
        timer.stop_and_join();
    }

    #[test]
    fn one_that_ends_with_its_environment_is_not_started_again() {
        let (host, timer) = Host::of_tests();
        let (_folder, mut launch) = launch(1, &host, "echo joined 1 >&0; echo closed >&0; exit 3");
        launch.ended = Arc::new(|number, _| panic!("the end of {number} is told"));
        let mut launcher = Launcher::start(launch).unwrap();
        // The thread has nothing to do any more.
        let thread = launcher.thread.take().unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(thread.join().is_ok()));
        assert_eq!(is_done.recv_timeout(LIMIT), Ok(true));
        timer.stop_and_join();
    }

    #[test]
    fn one_that_never_joins_is_given_up_with_its_last_words() {
        let (host, timer) = Host::of_tests();
        let (_folder, launch) = launch(1, &host, "echo nothing works; echo at all >&2; exit 1");
        let launcher = Launcher::start(launch).unwrap();
        let unjoined = block_on(launcher.all_joined(&host, LIMIT)).unwrap_err();
        assert_eq!(unjoined.joined, 0);
        assert_eq!(unjoined.last_words, ["worker-1 ended: exit status: 1; it said: nothing works / at all"]);
        drop(launcher);
        timer.stop_and_join();
    }

    #[test]
    fn one_that_does_not_end_is_killed() {
        let (host, timer) = Host::of_tests();
        let (_folder, launch) = launch(1, &host, "echo joined 7 >&0; exec sleep 3600");
        let launcher = Launcher::start(launch).unwrap();
        assert_eq!(block_on(launcher.all_joined(&host, LIMIT)), Ok(()));
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(launcher);
            done.send(()).unwrap();
        });
        is_done.recv_timeout(LIMIT).expect("the end of the processes");
        timer.stop_and_join();
    }

    #[test]
    fn lines_are_told_whole_or_in_pieces() {
        let last_words = LastWords::default();
        let long = "x".repeat(usize::try_from(LINE_BYTES_MAX).unwrap() + 1);
        let text = format!("a\n\nb\r\n{long}\nc");
        block_on(tell_lines("w", text.as_bytes(), &last_words));
        assert_eq!(last_words.take(), format!("a / b / {} / x / c", &long[1..]));
    }
}
