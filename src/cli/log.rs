//! What a process tells of itself on standard error. For a node in the background that is the file `node.log`, which must
//! not grow without end.

use std::{
    backtrace::Backtrace,
    io::{self, Write},
    panic,
    path::Path,
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// What is told of a node's life, and of everything else, unless the variable says otherwise.
const LOG_VARIABLE: &str = "PROSCENIUM_LOG";

/// Writes what the library tells to standard error.
pub(super) fn begin(default: &str) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    let is_terminal = io::IsTerminal::is_terminal(&io::stderr());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Counted).with_ansi(is_terminal);
    // A program that has a subscriber of its own keeps it.
    let _ = subscriber.try_init();
}

/// From now on a panic is one line of the log. Most are those of jobs, which are caught, and told to whoever runs the
/// job; where in the code one came from, with all that called it, is told at the level `debug`.
pub(super) fn panics_in_one_line() {
    panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("?");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("a value that is not text");
        tracing::error!(thread, place, message, "a panic");
        if tracing::enabled!(tracing::Level::DEBUG) {
            tracing::debug!(thread, "where it came from:\n{}", Backtrace::force_capture());
        }
    }));
}

/// Standard error; the keeper of the log hears how much went there.
struct Counted;

impl<'a> MakeWriter<'a> for Counted {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // On a full disk lines are lost, and nothing else: an error would be reported to standard error as well, which
        // panics if that fails too.
        let Ok(written) = io::stderr().write(bytes) else { return Ok(bytes.len()) };
        #[cfg(unix)]
        rotation::written(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has the log at `path`, to which standard output and standard error lead, begun anew whenever it is full. The full one
/// is kept beside it, until the next one is full.
#[cfg(unix)]
pub(super) fn rotate(path: &Path) {
    rotation::start(path);
}

#[cfg(not(unix))]
pub(super) fn rotate(_: &Path) {}

#[cfg(unix)]
mod rotation {
    use std::{
        fs::{self, File},
        io,
        os::unix::fs::OpenOptionsExt,
        path::{Path, PathBuf},
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
        thread::{self, Thread},
        time::Duration,
    };

    /// How long the log may grow.
    const LOG_BYTES_MAX: u64 = 16 << 20;

    /// The log is looked at when so much was told, for it may be full then; and from time to time, because what jobs
    /// print goes there too, without this process's knowing.
    const LOOK_AFTER_BYTES: u64 = 1 << 20;
    const LOOK_EVERY: Duration = Duration::from_secs(5);

    /// Told since the last look.
    static TOLD: AtomicU64 = AtomicU64::new(0);
    static KEEPER: OnceLock<Thread> = OnceLock::new();

    pub(super) fn written(bytes: usize) {
        let bytes = bytes as u64;
        let before = TOLD.fetch_add(bytes, Ordering::Relaxed);
        if before < LOOK_AFTER_BYTES
            && before + bytes >= LOOK_AFTER_BYTES
            && let Some(keeper) = KEEPER.get()
        {
            keeper.unpark();
        }
    }

    pub(super) fn start(path: &Path) {
        let path = path.to_owned();
        look(&path);
        let keeper = thread::Builder::new().name("proscenium-log".to_owned()).spawn(move || {
            loop {
                thread::park_timeout(LOOK_EVERY);
                TOLD.store(0, Ordering::Relaxed);
                look(&path);
            }
        });
        match keeper {
            // It ends with the process.
            Ok(keeper) => drop(KEEPER.set(keeper.thread().clone())),
            Err(error) => tracing::warn!(%error, "the log is not kept small, for want of a thread"),
        }
    }

    fn look(path: &Path) {
        let due = match fs::metadata(path) {
            Ok(log) => log.len() >= LOG_BYTES_MAX,
            // Somebody has taken it away.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if due && let Err(error) = begin_anew(path) {
            tracing::warn!(%error, path = %path.display(), "the log could not be begun anew");
        }
    }

    fn begin_anew(path: &Path) -> io::Result<()> {
        match fs::rename(path, old(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // As it was made: it may quote what jobs worked on. What is written meanwhile is in the old one.
        let log = File::options().create(true).append(true).mode(0o600).open(path)?;
        rustix::stdio::dup2_stdout(&log)?;
        rustix::stdio::dup2_stderr(&log)?;
        Ok(())
    }

    fn old(path: &Path) -> PathBuf {
        path.with_added_extension("1")
    }
}
