//! What flags, variables and the configuration file say together. A flag counts before its variable, and that before the
//! file.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    args::{Common, Format, Start, duration},
    exit::{Code, Failure},
};
use crate::{
    bridge::{Key, KeyError, TlsTrust, complete},
    environment::{ConnectError, RemoteEnvironment},
    job::Limits,
};

/// Where a node is looked for, and where it listens, at the default port.
const ADDRESS: &str = "127.0.0.1";

const ADDRESS_VARIABLE: &str = "PROSCENIUM_ADDRESS";
const KEY_VARIABLE: &str = "PROSCENIUM_KEY";
const KEY_FILE_VARIABLE: &str = "PROSCENIUM_KEY_FILE";

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    address: Option<String>,
    key_file: Option<PathBuf>,
    tls_pin: Option<PathBuf>,
    tls_authorities: Option<PathBuf>,
    encrypted: bool,
    format: Option<Format>,
    node: Start,
}

/// What counts for every command.
#[derive(Debug)]
pub(super) struct Settings {
    pub address: String,
    pub key: KeyChoice,
    pub tls_pin: Option<PathBuf>,
    pub tls_authorities: Option<PathBuf>,
    pub encrypted: bool,
    pub format: Format,
    /// What the file says of nodes.
    pub node: Start,
    /// Which file that is, if there is one.
    pub config: Option<PathBuf>,
}

/// Where the key is. Paths are absolute.
#[derive(Debug, Clone)]
pub(super) enum KeyChoice {
    /// In the variable `PROSCENIUM_KEY`.
    Variable,
    File(PathBuf),
}

impl Settings {
    /// `ignore_file`: the background process of `--daemon` is told everything by flags.
    pub(super) fn load(common: &Common, ignore_file: bool) -> Result<Self, Failure> {
        let named = common.config.clone().or_else(|| path_in("PROSCENIUM_CONFIG"));
        let config = named.clone().or_else(default_file).filter(|_| !ignore_file);
        let file = config.as_deref().map_or_else(|| Ok(File::default()), |path| read_file(path, named.is_some()))?;
        let address = common.address.clone().or_else(|| Some(env::var_os(ADDRESS_VARIABLE)?.to_string_lossy().into()));
        // What is trusted is said by flags, or by variables, or by the file: one of them alone.
        let flags = (common.tls_pin.clone(), common.tls_authorities.clone());
        let variables = (path_in("PROSCENIUM_TLS_PIN"), path_in("PROSCENIUM_TLS_AUTHORITIES"));
        let trust = [flags, variables, (file.tls_pin, file.tls_authorities)];
        let trust = trust.into_iter().find(|(pin, authorities)| pin.is_some() || authorities.is_some());
        let (tls_pin, tls_authorities) = trust.unwrap_or_default();
        Ok(Self {
            address: complete(address.as_deref().or(file.address.as_deref()).unwrap_or(ADDRESS))
                .map_err(Failure::usage)?,
            key: key_choice(common.key_file.clone(), file.key_file)?,
            tls_pin: absolute(tls_pin)?,
            tls_authorities: absolute(tls_authorities)?,
            encrypted: common.encrypted || file.encrypted,
            format: common.format.or(file.format).unwrap_or_default(),
            node: file.node,
            config,
        })
    }

    /// Whether the limits that the file says can be understood.
    pub(super) fn check_limits(&self) -> Result<(), Failure> {
        let file = self.config.as_deref().unwrap_or(Path::new("")).display();
        let checked = limits(&self.node.limit);
        checked.map(drop).map_err(|wrong| Failure::usage(format_args!("the configuration {file}: {}", wrong.message)))
    }

    pub(super) fn connect(&self) -> Result<RemoteEnvironment, Failure> {
        self.connect_to(&self.address, Duration::from_secs(30))
    }

    /// A connection that is given up once it is lost for `reconnect_limit`.
    pub(super) fn connect_to(&self, address: &str, reconnect_limit: Duration) -> Result<RemoteEnvironment, Failure> {
        let mut connect = RemoteEnvironment::connect("command line", address)
            .encrypted(self.encrypted)
            .reconnect_limit(reconnect_limit);
        connect = match &self.key {
            KeyChoice::Variable => connect.key(Key::find()?),
            KeyChoice::File(path) => connect.key_file(path),
        };
        let is_named =
            |path: &Path| absolute(Key::default_file()).is_ok_and(|default| default.as_deref() != Some(path));
        if let Some(trust) = self.trust()? {
            connect = connect.tls(trust);
        }
        connect.blocking().map_err(|error| match error {
            // A file that somebody has named is one that should be there, as of any other flag. Where a node makes its
            // key unless told otherwise, there is none because there was no node.
            ConnectError::Key(KeyError::NotFound { ref path }) if is_named(path) => {
                Failure { code: Code::Usage, ..error.into() }
            }
            error => error.into(),
        })
    }

    pub(super) fn trust(&self) -> Result<Option<TlsTrust>, Failure> {
        Ok(match (&self.tls_pin, &self.tls_authorities) {
            (Some(pin), _) => Some(TlsTrust::pinned_file(pin)?),
            (None, Some(authorities)) => Some(TlsTrust::authorities_file(authorities)?),
            (None, None) => None,
        })
    }
}

/// The path in a variable, if it is set.
pub(super) fn path_in(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

pub(super) fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    Ok(path.map(std::path::absolute).transpose()?)
}

fn key_choice(flag: Option<PathBuf>, file: Option<PathBuf>) -> Result<KeyChoice, Failure> {
    if flag.is_none() && env::var_os(KEY_VARIABLE).is_some() {
        // Also if it is empty, which is told when it is read: to look elsewhere would be to take another key than meant.
        return Ok(KeyChoice::Variable);
    }
    let variable = if flag.is_none() { env::var_os(KEY_FILE_VARIABLE) } else { None };
    if variable.as_ref().is_some_and(|path| path.is_empty()) {
        return Err(KeyError::EmptyVariable { variable: KEY_FILE_VARIABLE.to_owned() }.into());
    }
    let path = flag.or_else(|| variable.map(PathBuf::from)).or(file).or_else(Key::default_file);
    match absolute(path)? {
        Some(path) => Ok(KeyChoice::File(path)),
        None => Err(KeyError::NoHome.into()),
    }
}

/// The folder of the key and of the nodes' data, if there is one for this user.
pub(super) fn home() -> Option<PathBuf> {
    Key::default_file().and_then(|key| key.parent().map(Path::to_owned))
}

fn read_file(path: &Path, is_named: bool) -> Result<File, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => return Ok(File::default()),
        Err(error) => {
            return Err(Failure::usage(format_args!("the configuration {} cannot be read: {error}", path.display())));
        }
    };
    let file: Result<File, _> = toml::from_str(&text);
    file.map_err(|error| {
        // In one line, without a picture of the place.
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let line = if line == 0 { String::new() } else { format!(", line {line}") };
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        Failure::usage(format_args!("the configuration {}{line}: {message}", path.display()))
    })
}

/// `config.toml` in `$PROSCENIUM_HOME`, else in `$XDG_CONFIG_HOME/proscenium`, else in `$HOME/.config/proscenium`.
fn default_file() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("PROSCENIUM_HOME")
        .or_else(|| folder("XDG_CONFIG_HOME").map(|config| config.join("proscenium")))
        .or_else(|| folder("HOME").map(|home| home.join(".config/proscenium")))
        .map(|folder| folder.join("config.toml"))
}

/// The default limits with these changes, each `NAME=VALUE`: a number, or a time for a limit of time.
pub(super) fn limits(changes: &[String]) -> Result<Limits, Failure> {
    let mut limits = match serde_json::to_value(Limits::default()) {
        Ok(Value::Object(limits)) => limits,
        other => return Err(Failure::new(Code::Refused, format_args!("internal error: the limits read {other:?}"))),
    };
    for change in changes {
        let (name, value) = change
            .split_once('=')
            .ok_or_else(|| Failure::usage(format_args!("the limit `{change}` is not of the form NAME=VALUE")))?;
        let wrong = |why: &str| Failure::usage(format_args!("the limit `{name}`: `{value}` {why}"));
        let known = limits.keys().cloned().collect::<Vec<_>>().join(", ");
        match limits.get_mut(name) {
            // A time is a pair of fields; all other limits are whole numbers.
            Some(limit @ Value::Object(_)) => {
                let time = duration(value).map_err(|error| wrong(&format!("is no time: {error}")))?;
                *limit = serde_json::to_value(time).map_err(|error| wrong(&error.to_string()))?;
            }
            Some(limit) => *limit = value.parse::<u64>().map_err(|_| wrong("is no whole number"))?.into(),
            None => {
                return Err(Failure::usage(format_args!("there is no limit `{name}`; the limits are {known}")));
            }
        }
    }
    serde_json::from_value(Value::Object(limits)).map_err(|error| Failure::usage(format_args!("the limits: {error}")))
}
