//! The keys of a node: its own, which may do everything, and named ones that may do less.
//!
//! The named keys are kept in a file beside the node's own key, together with the key pair by which the clients that have
//! them know the node again:
//!
//! ```text
//! node DIGITS
//! reader NAME DIGITS
//! submitter NAME DIGITS
//! worker NAME DIGITS
//! ```

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::key::{Key, KeyError, KeyId, digits_of, is_exposed, is_name, secret_of};
use crate::{
    host::fill_secret,
    link::{KeyInfo, KeyRingRefusal, KeyRole},
};

/// Named keys of a node at most.
pub(crate) const KEYS_MAX: usize = 1_024;

/// Bytes of the private half of a node's key pair.
pub(crate) const SEED_BYTES: usize = 32;

/// Whose connection it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub id: KeyId,
    pub role: KeyRole,
    pub name: Arc<str>,
}

#[derive(Clone)]
struct Named {
    identity: Identity,
    key: Key,
}

/// The keys of one node.
pub(crate) struct KeyRing {
    own: Key,
    /// Stands in for keys that are not known, so that to refuse one takes as long as to refuse a wrong proof.
    decoy: Key,
    seed: [u8; SEED_BYTES],
    /// The digest of the public half of the node's key pair; none without encryption.
    pin: Option<[u8; 32]>,
    /// None: the named keys go with the process. Locked by whoever changes the keys, until they are on disk.
    file: Mutex<Option<RingFile>>,
    /// Never locked while a disk is waited for: every client that comes is looked for here.
    named: Mutex<Vec<Named>>,
    /// That of the workers which this process has started. It is not kept, nor shown, nor can it be revoked.
    launched: Option<Named>,
}

/// Where the named keys are kept.
struct RingFile {
    path: PathBuf,
    /// What it held when this node read or wrote it last; none if it was not there.
    known: Option<String>,
}

impl KeyRing {
    /// The keys in `file`, if there is one, beside the node's own. `pin` makes the digest of a key pair's public half.
    pub(crate) fn open(
        own: Key,
        file: Option<PathBuf>,
        pin: impl FnOnce(&[u8; SEED_BYTES]) -> Option<[u8; 32]>,
    ) -> Result<Self, KeyError> {
        let mut seed = [0; SEED_BYTES];
        fill_secret(&mut seed).map_err(|error| KeyError::Ring { message: error.to_string() })?;
        let mut named = Vec::new();
        let mut ring = None;
        if let Some(path) = file {
            let known = read(&path)?;
            let damaged = |what: &str| KeyError::Ring { message: format!("{}{what}", path.display()) };
            let mut has_seed = false;
            for (number, line) in known.iter().flat_map(|text| text.lines()).enumerate() {
                let wrong = || damaged(&format!(", line {}, is no key", number + 1));
                let words: Vec<&str> = line.split_whitespace().collect();
                match words[..] {
                    ["node", digits] => {
                        seed = secret_of(digits).and_then(|seed| seed.try_into().ok()).ok_or_else(wrong)?;
                        has_seed = true;
                    }
                    [role, name, digits] if is_name(name) => {
                        let role = KeyRole::of_word(role).filter(|role| *role != KeyRole::Admin).ok_or_else(wrong)?;
                        let key = Named::new(name, role, Key::from_hex(digits).map_err(|_| wrong())?);
                        // To revoke one of two would leave the other.
                        if named.iter().any(|before| key.is_like(before)) {
                            return Err(damaged(&format!(", line {}, is a key that was there already", number + 1)));
                        }
                        named.push(key);
                    }
                    _ => return Err(wrong()),
                }
            }
            if known.is_some() && !has_seed {
                return Err(damaged(" lacks the node's key pair, by which clients with named keys know it"));
            }
            ring = Some(RingFile { path, known });
        }
        let pin = pin(&seed);
        Ok(Self {
            own,
            decoy: Key::generate(),
            seed,
            pin,
            file: Mutex::new(ring),
            named: Mutex::new(named),
            launched: None,
        })
    }

    /// That of a node without named keys.
    #[cfg(any(test, fuzzing))]
    pub(super) fn of_tests(own: Key) -> Self {
        let seed = [9; SEED_BYTES];
        Self {
            own,
            decoy: Key::generate(),
            seed,
            pin: None,
            file: Mutex::default(),
            named: Mutex::default(),
            launched: None,
        }
    }

    /// The same, with a key for the workers that this process starts.
    pub(crate) fn with_launched(self, key: Key) -> Self {
        Self { launched: Some(Named::new("launched", KeyRole::Worker, key)), ..self }
    }

    /// The private half of the key pair that the node shows.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "without encryption it is only kept"))]
    pub(crate) fn seed(&self) -> &[u8; SEED_BYTES] {
        &self.seed
    }

    /// With what a client that says to have this key is to prove it, and who it then is. For a key that is not known
    /// it is one that nobody has.
    pub(super) fn find(&self, id: KeyId) -> (Key, Option<Identity>) {
        let named = self.named.lock();
        let found = named.iter().chain(&self.launched).find(|named| named.identity.id == id);
        let own = (self.own.id() == id).then(|| self.admin());
        match (own, found) {
            (Some(admin), _) => (self.own.clone(), Some(admin)),
            (None, Some(named)) => (named.key.clone(), Some(named.identity.clone())),
            (None, None) => (self.decoy.clone(), None),
        }
    }

    fn admin(&self) -> Identity {
        Identity { id: self.own.id(), role: KeyRole::Admin, name: Arc::from("admin") }
    }

    /// Whether a key is still one of the node's.
    pub(super) fn knows(&self, id: KeyId) -> bool {
        self.find(id).1.is_some()
    }

    pub(super) fn list(&self) -> Vec<KeyInfo> {
        let named = self.named.lock();
        named.iter().map(|named| KeyInfo { name: named.identity.name.to_string(), role: named.identity.role }).collect()
    }

    /// Adds a key, and returns the digest by which its clients know the node. To add the same one again changes nothing.
    pub(super) fn add(&self, name: &str, role: KeyRole, key: Key) -> Result<[u8; 32], KeyRingRefusal> {
        let pin = self.pin.ok_or(KeyRingRefusal::NoEncryption)?;
        if !is_name(name) {
            // It may be of any length.
            return Err(KeyRingRefusal::Name { name: name.chars().take(64).collect() });
        }
        if role == KeyRole::Admin {
            return Err(KeyRingRefusal::Role);
        }
        let mut file = self.file.lock();
        let mut named = self.named.lock().clone();
        let added = Named::new(name, role, key);
        if let Some(before) = named.iter().find(|before| *before.identity.name == *name) {
            let same = before.identity == added.identity;
            return if same { Ok(pin) } else { Err(KeyRingRefusal::Exists { name: name.to_owned() }) };
        }
        if named.len() >= KEYS_MAX {
            return Err(KeyRingRefusal::TooMany { limit: KEYS_MAX });
        }
        if self.own.id() == added.identity.id || named.iter().any(|before| added.is_like(before)) {
            return Err(KeyRingRefusal::Exists { name: name.to_owned() });
        }
        named.push(added);
        self.write(file.as_mut(), &named)?;
        *self.named.lock() = named;
        Ok(pin)
    }

    /// Takes a key away, and says which it was.
    pub(super) fn revoke(&self, name: &str) -> Result<KeyId, KeyRingRefusal> {
        let mut file = self.file.lock();
        let mut named = self.named.lock().clone();
        let Some(at) = named.iter().position(|named| *named.identity.name == *name) else {
            return Err(KeyRingRefusal::NoSuchKey { name: name.chars().take(256).collect() });
        };
        let revoked = named.remove(at);
        // First, since what could not be written would be back after a restart.
        self.write(file.as_mut(), &named)?;
        *self.named.lock() = named;
        Ok(revoked.identity.id)
    }

    fn write(&self, file: Option<&mut RingFile>, named: &[Named]) -> Result<(), KeyRingRefusal> {
        let Some(file) = file else { return Ok(()) };
        let mut text = format!("node {}\n", digits_of(&self.seed));
        for Named { identity, key } in named {
            text.push_str(&format!("{} {} {}\n", identity.role, identity.name, digits_of(key.secret())));
        }
        file.replace(text).map_err(|error| KeyRingRefusal::NotWritten { message: error.to_string() })
    }
}

impl RingFile {
    /// As a whole, in place of the file that is there; unless that is not the one that this node knows. Another node that
    /// has the same file would else take back what was added here, and bring back what was revoked.
    fn replace(&mut self, text: String) -> io::Result<()> {
        if text_of(&self.path)? != self.known {
            return Err(io::Error::other(format!(
                "{} was changed by another process since this node read it; a node needs a file of its own, beside a key \
                 file of its own, and reads it when it starts",
                self.path.display()
            )));
        }
        let written = write(&self.path, &text);
        // It may be there and yet not be known to be on disk.
        if written.is_ok() || text_of(&self.path).is_ok_and(|there| there.as_ref() == Some(&text)) {
            self.known = Some(text);
        }
        written
    }
}

impl Named {
    fn new(name: &str, role: KeyRole, key: Key) -> Self {
        Self { identity: Identity { id: key.id(), role, name: Arc::from(name) }, key }
    }

    /// Whether the two cannot both be keys of one node.
    fn is_like(&self, other: &Self) -> bool {
        self.identity.id == other.identity.id || self.identity.name == other.identity.name
    }
}

/// None if there is no such file.
fn read(path: &Path) -> Result<Option<String>, KeyError> {
    match text_of(path) {
        Ok(Some(_)) if is_exposed(path) => Err(KeyError::Exposed { path: path.to_owned() }),
        Ok(text) => Ok(text),
        Err(error) => Err(KeyError::Unreadable { path: path.to_owned(), message: error.to_string() }),
    }
}

fn text_of(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // Made with mode 0600, and given its name only once it is whole and on disk.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    #[cfg(unix)]
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(file: Option<PathBuf>) -> KeyRing {
        KeyRing::open(Key::from_bytes(&[7; 32]).unwrap(), file, |seed| Some(*seed)).unwrap()
    }

    #[test]
    fn keys_are_found_again_after_a_restart_and_so_is_the_key_pair_they_pin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.ring");
        let (reader, submitter) = (Key::generate(), Key::generate());
        let pin = {
            let ring = ring(Some(path.clone()));
            assert!(!path.exists(), "without named keys there is nothing to keep");
            let pin = ring.add("dash", KeyRole::Reader, reader.clone()).unwrap();
            assert_eq!(ring.add("etl", KeyRole::Submitter, submitter.clone()), Ok(pin));
            assert_eq!(ring.add("etl", KeyRole::Submitter, submitter.clone()), Ok(pin), "the same one again");
            pin
        };
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let ring = ring(Some(path));
        assert_eq!(ring.seed(), &pin);
        let (key, who) = ring.find(reader.id());
        assert_eq!((key, who.unwrap().role), (reader, KeyRole::Reader));
        let names: Vec<String> = ring.list().into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["dash", "etl"]);
        assert_eq!(ring.revoke("etl"), Ok(submitter.id()));
        assert!(!ring.knows(submitter.id()));
        assert_eq!(ring.revoke("etl"), Err(KeyRingRefusal::NoSuchKey { name: "etl".to_owned() }));
    }

    #[test]
    fn of_two_nodes_that_have_the_same_file_neither_undoes_what_the_other_did() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.ring");
        let one = ring(Some(path.clone()));
        let leaked = Key::generate();
        one.add("dash", KeyRole::Reader, leaked.clone()).unwrap();
        let other = ring(Some(path.clone()));
        one.revoke("dash").unwrap();
        let refused = other.add("etl", KeyRole::Submitter, Key::generate());
        assert!(matches!(&refused, Err(KeyRingRefusal::NotWritten { .. })), "{refused:?}");
        assert_eq!(other.list().len(), 1, "what could not be written is not had either");
        assert!(!ring(Some(path.clone())).knows(leaked.id()), "a key that was revoked is back");
        one.add("etl", KeyRole::Submitter, Key::generate()).unwrap();
        assert_eq!(ring(Some(path)).list(), one.list());
    }

    #[test]
    fn a_file_with_two_keys_of_one_name_or_without_a_key_pair_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.ring");
        let [first, second, seed] = [1, 2, 3].map(|byte| digits_of(&[byte; 32]));
        for text in [
            format!("node {seed}\nreader a {first}\nreader a {second}\n"),
            format!("node {seed}\nreader a {first}\nsubmitter b {first}\n"),
            format!("reader a {first}\n"),
            String::new(),
        ] {
            write(&path, &text).unwrap();
            let opened = KeyRing::open(Key::generate(), Some(path.clone()), |_| None);
            assert!(matches!(opened, Err(KeyError::Ring { .. })), "{text}");
        }
    }

    #[test]
    fn what_is_no_key_or_no_name_is_refused() {
        let ring = ring(None);
        for name in ["", "a:b", "a b", "\u{1b}[2J", &"a".repeat(257)] {
            let refused = ring.add(name, KeyRole::Reader, Key::generate());
            assert!(matches!(refused, Err(KeyRingRefusal::Name { .. })), "{name:?}: {refused:?}");
        }
        assert_eq!(ring.add("a", KeyRole::Admin, Key::generate()), Err(KeyRingRefusal::Role));
        ring.add("a", KeyRole::Reader, Key::generate()).unwrap();
        let again = ring.add("a", KeyRole::Reader, Key::generate());
        assert_eq!(again, Err(KeyRingRefusal::Exists { name: "a".to_owned() }));
        let own = Key::from_bytes(&[7; 32]).unwrap();
        assert!(ring.add("b", KeyRole::Reader, own).is_err(), "the node's own key stays what it is");
        assert_eq!(ring.find(Key::generate().id()).1, None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring");
        write(&path, "reader only-a-name\n").unwrap();
        let opened = KeyRing::open(Key::generate(), Some(path), |_| None);
        assert!(matches!(opened, Err(KeyError::Ring { .. })));
    }
}
