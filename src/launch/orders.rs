//! What a worker process is told, and how it finds out.
//!
//! ```text
//! arguments         PROGRAM --proscenium-worker PARENT NAME      PARENT: the process that started it
//! standard input    proscenium worker 2                          the version of what follows
//!                   name NAME
//!                   manager HOST:PORT
//!                   key TEXT
//!                   slots N
//!                   memory BYTES                             at most; 0 for no limit
//!                   (an empty line)                              then nothing, until its end: the worker is to end
//! and back          joined NUMBER                                once it has joined, as this worker
//!                   closed                                       once its environment is closed, and it ends
//! ```
//!
//! It is text, because a worker may be of another version of this library than who starts it.

use std::{env, fmt, io};

/// The first argument of a process that is to be a worker.
pub(super) const FLAG: &str = "--proscenium-worker";

/// What opens the orders.
const VERSION: &str = "proscenium worker 2";

/// What a worker says once it has joined, in front of its number.
#[cfg(unix)]
pub(super) const JOINED: &str = "joined ";

/// What a worker says that ends because it was told to by its JobManager.
#[cfg(unix)]
pub(super) const CLOSED: &str = "closed";

/// Bytes of orders at most; they come from the process that started this one, or from the person who typed the flag.
const ORDERS_BYTES_MAX: usize = 16 << 10;

/// What a worker process is to do.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Orders {
    pub name: String,
    /// Where its JobManager is, `host:port`.
    pub manager: String,
    /// The text of the key that it proves itself with.
    pub key: String,
    /// Threads that run tasks.
    pub slots: usize,
    /// Bytes that the process may have of its own.
    pub memory_max: Option<u64>,
}

/// Shows nothing of the key.
impl fmt::Debug for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orders").field("name", &self.name).field("manager", &self.manager).finish_non_exhaustive()
    }
}

impl Orders {
    pub(super) fn to_text(&self) -> String {
        let Self { name, manager, key, slots, memory_max } = self;
        let memory = memory_max.unwrap_or(0);
        format!("{VERSION}\nname {name}\nmanager {manager}\nkey {key}\nslots {slots}\nmemory {memory}\n\n")
    }

    /// # Errors
    ///
    /// What is wrong with the text.
    fn read(from: &mut impl io::BufRead) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut from = io::Read::take(from, ORDERS_BYTES_MAX as u64);
        let mut line = || {
            let mut line = String::new();
            io::BufRead::read_line(&mut from, &mut line)?;
            line.ends_with('\n').then(|| line.trim_end().to_owned()).ok_or_else(|| wrong("the orders break off"))
        };
        if line()? != VERSION {
            return Err(wrong("these are no orders, or those of another version"));
        }
        let mut value = |field: &str| {
            let line = line()?;
            let value = line.strip_prefix(field).and_then(|rest| rest.strip_prefix(' '));
            value.map(str::to_owned).ok_or_else(|| wrong(&format!("the orders lack `{field}`")))
        };
        let orders = Self {
            name: value("name")?,
            manager: value("manager")?,
            key: value("key")?,
            slots: value("slots")?.parse().map_err(|_| wrong("the slots are no number"))?,
            memory_max: match value("memory")?.parse().map_err(|_| wrong("the memory is no number"))? {
                0 => None,
                bytes => Some(bytes),
            },
        };
        if line()?.is_empty() { Ok(orders) } else { Err(wrong("there is more in the orders than is known here")) }
    }
}

/// Whether this process was started as a worker.
pub(crate) fn is_worker() -> bool {
    env::args_os().nth(1).is_some_and(|flag| flag == FLAG)
}

#[cfg(unix)]
pub(crate) use self::of_process::{Leash, take_orders};

#[cfg(unix)]
mod of_process {
    use std::{
        env,
        fs::File,
        io::{self, BufReader, Read, Write},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::{CLOSED, JOINED, Orders, is_worker};

    /// What ties a worker process to the one that started it.
    pub(crate) struct Leash(UnixStream);

    /// The orders of this process, if it was started as a worker. To be called once, and first of all.
    ///
    /// # Errors
    ///
    /// It was, and cannot be one.
    pub(crate) fn take_orders() -> Option<io::Result<(Orders, Leash)>> {
        is_worker().then(|| {
            let mut words = env::args().skip(2);
            let parent = words.next().and_then(|id| id.parse().ok());
            tie_to(parent)?;
            #[cfg(target_os = "linux")]
            name_process();
            let stdin = io::stdin().as_fd().try_clone_to_owned()?;
            // What the jobs start has no part in it: the other end is to notice the end of this very process.
            rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
            let socket = UnixStream::from(stdin);
            let orders = Orders::read(&mut BufReader::new(&socket))?;
            orders.memory_max.map_or(Ok(()), limit_memory)?;
            Ok((orders, Leash(socket)))
        })
    }

    /// Ends with the process that started this one, if that is `parent`, and at once if that has gone already.
    fn tie_to(parent: Option<i32>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It may have ended before that was set.
        let now = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get());
        if now.is_some() && now == parent {
            return Ok(());
        }
        Err(io::Error::other("who started it is gone, or is not who it says"))
    }

    /// This process, from here on.
    fn limit_memory(bytes: u64) -> io::Result<()> {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Data);
        limit.current = Some(limit.maximum.map_or(bytes, |maximum| maximum.min(bytes)));
        limit.maximum = limit.current;
        Ok(setrlimit(Resource::Data, limit)?)
    }

    /// Started by descriptor, it is called by its number else.
    #[cfg(target_os = "linux")]
    fn name_process() {
        let name = env::current_exe().ok().and_then(|path| path.file_name().map(ToOwned::to_owned));
        let name = name.and_then(|name| std::ffi::CString::new(name.into_encoded_bytes()).ok());
        if let Some(name) = name {
            // It only shows.
            let _ = rustix::thread::set_name(&name);
        }
    }

    impl Leash {
        /// The worker has joined its JobManager, by this number.
        pub(crate) fn joined(&self, number: u32) {
            // If who started this process is gone, so is its interest.
            let _ = writeln!(&self.0, "{JOINED}{number}");
        }

        /// The worker ends because its JobManager says so.
        pub(crate) fn closed(&self) {
            let _ = writeln!(&self.0, "{CLOSED}");
        }

        /// Returns once this process is to end.
        pub(crate) fn wait(&self) {
            let mut socket = &self.0;
            loop {
                match socket.read(&mut [0; 64]) {
                    // What else is said has no meaning yet.
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => return,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> Orders {
        Orders {
            name: "worker-1".to_owned(),
            manager: "127.0.0.1:19001".to_owned(),
            key: "worker:launched:00ff:11ee".to_owned(),
            slots: 4,
            memory_max: Some(1 << 30),
        }
    }

    #[test]
    fn orders_come_back_as_they_were_and_leave_what_follows() {
        let text = format!("{}x", orders().to_text());
        let mut from = text.as_bytes();
        assert_eq!(Orders::read(&mut from).unwrap(), orders());
        assert_eq!(from, b"x");
        let unlimited = Orders { memory_max: None, ..orders() };
        assert_eq!(Orders::read(&mut unlimited.to_text().as_bytes()).unwrap(), unlimited);
        assert!(!format!("{:?}", orders()).contains("00ff"), "the key is not shown");
    }

    #[test]
    fn orders_that_break_off_or_are_none_are_refused() {
        let text = orders().to_text();
        for end in 0..text.len() {
            assert!(Orders::read(&mut &text.as_bytes()[..end]).is_err(), "{end}");
        }
        for other in [
            text.replace("worker 2", "worker 3"),
            text.replace("slots 4", "slots four"),
            text.replace("memory 1", "memory all"),
            text.replace("manager", "master"),
            text.replace("\n\n", "\nmore of it\n\n"),
            format!("{VERSION}\nname {}", "x".repeat(2 * ORDERS_BYTES_MAX)),
        ] {
            assert!(Orders::read(&mut other.as_bytes()).is_err(), "{other}");
        }
    }
}
