//! A node in the background: a process of this very program, in a session of its own.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    process::Command as Process,
    sync::mpsc,
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    args::{Command, NodeCommand, Start},
    exit::{Code, Failure},
    settings::{KeyChoice, Settings},
};

/// How a node was started, in its data folder.
const RECORD: &str = "node.json";
pub(super) const LOG: &str = "node.log";
/// That of the store; held locked by the node's process.
const LOCK: &str = "lock";

/// How a node was started, so that it can be started again in the same way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Where it was told to listen.
    pub address: String,
    /// Where it listens.
    pub listens_at: String,
    pub process: u32,
    /// Where it was started, from which relative paths in parameters are meant.
    pub folder: Option<PathBuf>,
    /// None: in the variable.
    pub key_file: Option<PathBuf>,
    pub encrypted: bool,
    pub start: Start,
}

impl Record {
    /// None if no node was started there yet.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, Failure> {
        let path = folder.join(RECORD);
        let unreadable = |error: &dyn std::fmt::Display| {
            Failure::usage(format_args!(
                "how the node was started is not to be read from {}: {error}; remove it, and start the node by flags",
                path.display()
            ))
        };
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| unreadable(&error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// Whether this is the node that is reached at `address`, on this machine.
    pub(super) fn is_at(&self, address: &str) -> bool {
        let Ok(own) = self.listens_at.parse::<SocketAddr>() else { return false };
        let Ok(asked) = address.to_socket_addrs() else { return false };
        asked.into_iter().any(|asked| {
            asked.port() == own.port()
                && (asked.ip() == own.ip() || own.ip().is_unspecified() && asked.ip().is_loopback())
        })
    }

    /// In place of the one that is there, as a whole.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.persist(folder.join(RECORD)).map_err(|error| error.error)?;
        Ok(())
    }

    /// The arguments that start the same node in the background.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["jobmanager", "start", "--daemon-child"].map(OsString::from).to_vec();
        let mut flag = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                arguments.push(name.into());
                arguments.push(value);
            }
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.clone().into_os_string());
        let number = |number: Option<u32>| number.map(|number| number.to_string().into());
        let Start { data_folder, task_threads, service_threads, io_threads, connections_max, .. } = &self.start;
        let Start { submitter_jobs_max, tls_certificate, tls_key, .. } = &self.start;
        let Start { workers, worker_slots, worker_memory, join_workers, data_address, advertise, .. } = &self.start;
        flag("--address", Some(self.address.clone().into()));
        flag("--key-file", path(&self.key_file));
        flag("--data-folder", path(data_folder));
        flag("--task-threads", number(task_threads.map(u32::from)));
        flag("--service-threads", number(service_threads.map(u32::from)));
        flag("--io-threads", number(io_threads.map(u32::from)));
        flag("--connections-max", number(*connections_max));
        flag("--submitter-jobs-max", number(*submitter_jobs_max));
        flag("--workers", number(workers.map(u32::from)));
        flag("--worker-slots", number(worker_slots.map(u32::from)));
        flag("--worker-memory", number(*worker_memory));
        flag("--data-address", data_address.as_ref().map(OsString::from));
        flag("--advertise", advertise.as_ref().map(OsString::from));
        flag("--tls-certificate", path(tls_certificate));
        flag("--tls-key", path(tls_key));
        for limit in &self.start.limit {
            flag("--limit", Some(limit.into()));
        }
        if *join_workers {
            arguments.push("--join-workers".into());
        }
        if self.encrypted {
            arguments.push("--encrypted".into());
        }
        arguments
    }
}

pub(super) fn record(settings: &Settings, start: &Start, listens_at: String) -> Record {
    Record {
        address: settings.address.clone(),
        listens_at,
        process: std::process::id(),
        folder: env::current_dir().ok(),
        key_file: match &settings.key {
            KeyChoice::File(path) => Some(path.clone()),
            KeyChoice::Variable => None,
        },
        encrypted: settings.encrypted,
        start: start.clone(),
    }
}

/// Whether this process is the node in the background.
pub(super) fn is_child(command: &Command) -> bool {
    matches!(command, Command::Jobmanager(NodeCommand::Start(Start { daemon_child: true, .. })))
}

/// Whether this process becomes a node, or a worker of one.
pub(super) fn serves(command: &Command) -> bool {
    matches!(command, Command::Jobmanager(NodeCommand::Start(Start { daemon: false, .. })) | Command::Worker(_))
}

/// What the node in the background says once, to the process that started it: over its standard input, which is one end
/// of a socket. Its standard output goes to the log, for whatever its jobs print.
#[derive(Debug, Serialize, Deserialize)]
enum Greeting {
    Serving { address: String },
    Failed { message: String, exit_code: u8 },
}

/// Leaves the terminal, so that nothing that happens there ends the node.
#[cfg(unix)]
pub(super) fn detach() {
    // It fails only for a process that leads its group already, which is as good.
    let _ = rustix::process::setsid();
}

#[cfg(not(unix))]
pub(super) fn detach() {}

/// Tells the process that started this one how it went.
#[cfg(unix)]
pub(super) fn greet(served: Result<&str, &Failure>) {
    use std::os::{fd::AsFd, unix::net::UnixStream};
    let greeting = match served {
        Ok(address) => Greeting::Serving { address: address.to_owned() },
        Err(failure) => Greeting::Failed { message: failure.message.clone(), exit_code: failure.code as u8 },
    };
    // If that process has gone, there is nobody to tell.
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else { return };
    let mut socket = UnixStream::from(socket);
    let _ = serde_json::to_writer(&mut socket, &greeting).map_err(io::Error::from).and_then(|()| writeln!(socket));
    let _ = socket.shutdown(std::net::Shutdown::Write);
}

#[cfg(not(unix))]
pub(super) fn greet(_: Result<&str, &Failure>) {}

#[cfg(not(unix))]
pub(super) fn spawn(_: &Record) -> Result<(String, u32, PathBuf), Failure> {
    Err(Failure::usage("a node in the background takes a Unix; start it in the foreground, as a service"))
}

/// Starts the node in the background, and returns where it listens, its process, and where its log is.
#[cfg(unix)]
pub(super) fn spawn(record: &Record) -> Result<(String, u32, PathBuf), Failure> {
    use std::os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt, net::UnixStream},
    };
    let folder = record.start.data_folder.as_deref().unwrap_or(Path::new("."));
    let log_path = folder.join(LOG);
    let unwritable = |error: io::Error| {
        Failure::new(Code::Refused, format_args!("the log {} cannot be written: {error}", log_path.display()))
    };
    make_folder(folder).map_err(unwritable)?;
    // Like the history, it may quote what jobs worked on.
    let log = File::options().create(true).append(true).mode(0o600).open(&log_path).map_err(unwritable)?;
    let (socket, childs) = UnixStream::pair()?;
    let mut process = Process::new(env::current_exe()?);
    process.args(record.arguments()).stdin(OwnedFd::from(childs)).stdout(log.try_clone()?).stderr(log);
    if let Some(folder) = record.folder.as_deref().filter(|folder| folder.is_dir()) {
        process.current_dir(folder);
    }
    // Everything is in its arguments, but for a key.
    for variable in
        ["ADDRESS", "KEY_FILE", "TLS_PIN", "TLS_AUTHORITIES", "TLS_CERTIFICATE", "TLS_KEY", "DATA", "CONFIG"]
    {
        process.env_remove(format!("PROSCENIUM_{variable}"));
    }
    let mut child = process.spawn()?;
    // It holds this process's copy of the child's end.
    drop(process);
    let id = child.id();
    let mut said = String::new();
    // Nothing, if the process ends before it says something.
    BufReader::new(socket).read_line(&mut said)?;
    match serde_json::from_str(&said) {
        Ok(Greeting::Serving { address }) => Ok((address, id, log_path)),
        Ok(Greeting::Failed { message, exit_code }) => {
            child.wait()?;
            let code = if exit_code == Code::Usage as u8 { Code::Usage } else { Code::Refused };
            Err(Failure::new(code, message))
        }
        Err(_) => {
            let status = child.wait()?;
            let message = format!("the node ended at its start with {status}; see {}", log_path.display());
            Err(Failure::new(Code::Refused, message))
        }
    }
}

#[cfg(unix)]
fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Waits until no process uses the data folder; `false` if one still does after `limit`.
pub(super) fn wait_until_free(folder: &Path, limit: Duration) -> bool {
    let Ok(lock) = File::options().read(true).write(true).open(folder.join(LOCK)) else { return true };
    let (free, is_free) = mpsc::channel();
    // Abandoned with the process if it takes too long.
    thread::spawn(move || {
        let locked = lock.lock();
        drop(lock);
        let _ = free.send(locked.is_ok());
    });
    is_free.recv_timeout(limit).unwrap_or(false)
}

/// Whether no process uses the data folder now.
pub(super) fn is_free(folder: &Path) -> bool {
    File::options().read(true).write(true).open(folder.join(LOCK)).map_or(true, |lock| lock.try_lock().is_ok())
}
