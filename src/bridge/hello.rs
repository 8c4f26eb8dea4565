//! The fixed bytes with which a connection begins, outside any codec. Pure: no I/O, no randomness.
//!
//! ```text
//!  byte  0            8         10       12             16               32           64         80
//!        +------------+---------+--------+--------------+----------------+------------+----------+
//!        | "PROSCNM\n" | version | codec  | capabilities | who            | nonce      | key id   |
//!        +------------+---------+--------+--------------+----------------+------------+----------+
//!          8 bytes      u16       u16      u32            u128             32 bytes     16 bytes,
//!                                                                                       by the client only
//!
//!  capabilities: bit 0  the connection has to be encrypted; one side that says so is enough
//!                bit 1  the client wants the node's certificate, rather than a raw public key
//! ```
//!
//! *Who* is the client's own number, drawn once for all of its connections, or the node's incarnation. The first 64
//! bytes are the same in every version, so that peers of different versions can tell each other which they are; what
//! follows is read only once the versions agree. The *key id* tells the node with which of its keys the client will
//! prove itself; it is derived from the key and tells nothing of it.
//!
//! Proofs are HMAC-SHA-256 (RFC 2104) over both hellos and the channel binding, under keys that HKDF-SHA-256 (RFC 5869)
//! derives from the shared one, a different one for each role. So a proof that is sent back to its maker proves nothing,
//! and one that is sent again neither, for both sides have drawn new nonces.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::key::{Key, KeyId};

/// The version of everything that is said over a bridge. Raised by every change to it.
pub(super) const PROTOCOL_VERSION: u16 = 5;

/// The encoding of `crate::codec`.
const CODEC: u16 = 1;

pub(super) const MAGIC: [u8; 8] = *b"PROSCNM\n";
pub(super) const HELLO_BYTES: usize = 64;
/// What a client says: its hello and the id of its key.
pub(super) const CLIENT_HELLO_BYTES: usize = HELLO_BYTES + KeyId::BYTES;
pub(super) const PROOF_BYTES: usize = 32;

/// Bytes of a refusal's text at most.
pub(super) const REFUSAL_BYTES_MAX: usize = 512;

/// The connection has to be encrypted.
const NEEDS_ENCRYPTION: u32 = 1;
/// The client wants a certificate.
const WANTS_CERTIFICATE: u32 = 2;

/// What either side says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub version: u16,
    pub codec: u16,
    /// Bits that are not known are ignored.
    pub capabilities: u32,
    pub who: u128,
    pub nonce: [u8; 32],
}

impl Hello {
    pub(super) fn new(who: u128, nonce: [u8; 32]) -> Self {
        Self { version: PROTOCOL_VERSION, codec: CODEC, capabilities: 0, who, nonce }
    }

    pub(super) fn needing_encryption(mut self, needed: bool) -> Self {
        self.capabilities |= if needed { NEEDS_ENCRYPTION } else { 0 };
        self
    }

    pub(super) fn wanting_certificate(mut self, wanted: bool) -> Self {
        self.capabilities |= if wanted { WANTS_CERTIFICATE } else { 0 };
        self
    }

    pub(super) fn needs_encryption(&self) -> bool {
        self.capabilities & NEEDS_ENCRYPTION != 0
    }

    pub(super) fn wants_certificate(&self) -> bool {
        self.capabilities & WANTS_CERTIFICATE != 0
    }

    /// As a client says it.
    pub(super) fn with_key(self, key: KeyId) -> [u8; CLIENT_HELLO_BYTES] {
        let mut bytes = [0; CLIENT_HELLO_BYTES];
        bytes[..HELLO_BYTES].copy_from_slice(&self.to_bytes());
        bytes[HELLO_BYTES..].copy_from_slice(&key.to_bytes());
        bytes
    }

    pub(super) fn to_bytes(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.codec.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.capabilities.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.who.to_le_bytes());
        bytes[32..].copy_from_slice(&self.nonce);
        bytes
    }

    /// # Errors
    ///
    /// What keeps the two from understanding one another.
    pub(super) fn from_bytes(bytes: &[u8; HELLO_BYTES]) -> Result<Self, HelloError> {
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        if bytes[..8] != MAGIC {
            return Err(HelloError::NotProscenium);
        }
        let (mut capabilities, mut who, mut nonce) = ([0; 4], [0; 16], [0; 32]);
        capabilities.copy_from_slice(&bytes[12..16]);
        who.copy_from_slice(&bytes[16..32]);
        nonce.copy_from_slice(&bytes[32..]);
        let hello = Self {
            version: number(8),
            codec: number(10),
            capabilities: u32::from_le_bytes(capabilities),
            who: u128::from_le_bytes(who),
            nonce,
        };
        if hello.version != PROTOCOL_VERSION {
            return Err(HelloError::Version { here: PROTOCOL_VERSION, there: hello.version });
        }
        if hello.codec != CODEC {
            return Err(HelloError::Codec { here: CODEC, there: hello.codec });
        }
        Ok(hello)
    }
}

/// Who proves that it knows the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Node,
}

/// The hellos of both sides, and what binds them to the stream they were said over.
pub(super) struct Transcript<'a> {
    pub client: &'a [u8; CLIENT_HELLO_BYTES],
    pub node: &'a [u8; HELLO_BYTES],
    pub binding: &'a [u8],
}

impl Transcript<'_> {
    fn mac(&self, key: &Key, role: Role) -> Hmac<Sha256> {
        let info: &[u8] = match role {
            Role::Client => b"proscenium client",
            Role::Node => b"proscenium node",
        };
        let mut role_key = [0; 32];
        Hkdf::<Sha256>::new(None, key.secret())
            .expand(info, &mut role_key)
            .expect("32 bytes are less than HKDF can give");
        let mut mac = Hmac::<Sha256>::new_from_slice(&role_key).expect("HMAC takes keys of any length");
        mac.update(self.client);
        mac.update(self.node);
        mac.update(&(self.binding.len() as u64).to_le_bytes());
        mac.update(self.binding);
        mac
    }

    pub(super) fn prove(&self, key: &Key, role: Role) -> [u8; PROOF_BYTES] {
        self.mac(key, role).finalize().into_bytes().into()
    }

    /// Whether `proof` was made by one who knows the key, found out in constant time.
    pub(super) fn verify(&self, key: &Key, role: Role, proof: &[u8; PROOF_BYTES]) -> bool {
        self.mac(key, role).verify_slice(proof).is_ok()
    }
}

/// Why two sides that met do not talk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("the connection failed during the hello: {0}")]
    Io(String),
    #[error("the peer closed the connection during the hello")]
    Closed,
    #[error("the peer does not speak proscenium's protocol: is this the address of a node?")]
    NotProscenium,
    #[error(
        "the peer speaks version {there} of the protocol and this side version {here}: use the same release on both"
    )]
    Version { here: u16, there: u16 },
    #[error("the peer uses codec {there} and this side codec {here}: use the same release on both")]
    Codec { here: u16, there: u16 },
    /// In the peer's words, of which nothing is proven.
    #[error("the peer refused: {0}")]
    Refused(String),
    #[error("the key is not the peer's: give both the same one, by a key file or PROSCENIUM_KEY")]
    WrongKey,
    #[error("the peer sent back what this side said")]
    Reflected,
    #[error(
        "the peer answers in TLS at once, as no node of this version does: is this the address of a node, and of the same release?"
    )]
    Tls,
    #[cfg(feature = "tls")]
    /// The handshake of TLS failed, for a reason that another attempt will not change.
    #[error("the connection could not be encrypted: {0}")]
    NotEncrypted(String),
    #[cfg(not(feature = "tls"))]
    #[error("the connection has to be encrypted, and this side was built without the feature `tls`")]
    CannotEncrypt,
    #[cfg(feature = "tls")]
    #[error("the client wants a certificate, and this node has none")]
    NoCertificate,
    #[cfg(feature = "tls")]
    #[error("too many encrypted connections were begun from the same network")]
    TooManyHandshakes,
}

/// What a node says to a client whose key it does not have, or which has not proven to have it.
pub(super) const KEY_UNKNOWN: &str = "the key is not one of the node's: it is of another node, or was revoked; have an \
     admin of this one make you one by `key add` or `add_key`, and give it by a key file or PROSCENIUM_KEY";

impl HelloError {
    /// Whether the peer said that it does not have this side's key. It has not proven who it is.
    pub(super) fn says_key_unknown(&self) -> bool {
        matches!(self, Self::Refused(text) if text == KEY_UNKNOWN)
    }
}

impl From<std::io::Error> for HelloError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// A refusal's text, fit to be shown: the peer may have sent anything.
pub(super) fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> Key {
        Key::from_bytes(&[7; 32]).expect("32 bytes are enough")
    }

    #[test]
    fn the_bytes_of_a_hello_do_not_change() {
        let hello = Hello::new(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10, [0xaa; 32]);
        let mut expected = b"PROSCNM\n\x05\x00\x01\x00\x00\x00\x00\x00".to_vec();
        expected.extend([0x10, 0x0f, 0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
        expected.extend([0xaa; 32]);
        assert_eq!(hello.to_bytes().to_vec(), expected);
        assert_eq!(Hello::from_bytes(&hello.to_bytes()), Ok(hello));
        let needing = hello.needing_encryption(true).wanting_certificate(true);
        expected[12] = 3;
        assert_eq!(needing.to_bytes().to_vec(), expected);
        assert!(needing.needs_encryption() && needing.wants_certificate());
        assert!(!hello.needs_encryption() && !hello.wants_certificate());
        expected
            .extend([0x3b, 0x80, 0x3d, 0xc7, 0x29, 0x10, 0x95, 0xc6, 0x88, 0x93, 0x85, 0xde, 0xe2, 0x18, 0x06, 0xde]);
        assert_eq!(needing.with_key(key().id()).to_vec(), expected);
    }

    #[test]
    fn the_bytes_of_proofs_do_not_change() {
        let (client, node) = (Hello::new(1, [1; 32]).with_key(key().id()), Hello::new(2, [2; 32]).to_bytes());
        let proof = |role, binding: &[u8]| {
            let proof = Transcript { client: &client, node: &node, binding }.prove(&key(), role);
            proof.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(proof(Role::Client, b""), "3e57733acbecf4cf9da167cfc252663bd217e9e2c6155b6517cd2260d6ff0833");
        assert_eq!(proof(Role::Node, b""), "a8786b5f4fe2f473ed66a79b145970597aa0033238df6aab4776da3a5aa55db9");
        assert_ne!(proof(Role::Client, b""), proof(Role::Client, b"binding"));
    }

    #[test]
    fn what_differs_is_named() {
        let mut bytes = Hello::new(1, [1; 32]).to_bytes();
        bytes[8] = 9;
        let error = Hello::from_bytes(&bytes).unwrap_err();
        assert_eq!(error, HelloError::Version { here: 5, there: 9 });
        assert!(error.to_string().contains("version 9"), "{error}");
        let mut bytes = Hello::new(1, [1; 32]).to_bytes();
        bytes[10] = 3;
        assert_eq!(Hello::from_bytes(&bytes), Err(HelloError::Codec { here: 1, there: 3 }));
        assert_eq!(Hello::from_bytes(&[0; 64]), Err(HelloError::NotProscenium));
    }

    #[test]
    fn a_proof_holds_for_its_role_key_hellos_and_binding_only() {
        let (client, node) = (Hello::new(1, [1; 32]).with_key(key().id()), Hello::new(2, [2; 32]).to_bytes());
        let transcript = Transcript { client: &client, node: &node, binding: b"b" };
        let proof = transcript.prove(&key(), Role::Client);
        assert!(transcript.verify(&key(), Role::Client, &proof));
        assert!(!transcript.verify(&key(), Role::Node, &proof));
        assert!(!transcript.verify(&Key::generate(), Role::Client, &proof));
        let mut other = client;
        other[12] ^= 1;
        assert!(!Transcript { client: &other, node: &node, binding: b"b" }.verify(&key(), Role::Client, &proof));
        assert!(!Transcript { client: &client, node: &node, binding: b"" }.verify(&key(), Role::Client, &proof));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_or_read(bytes in prop::array::uniform32(any::<u8>())) {
            let mut hello = [0; HELLO_BYTES];
            hello[..32].copy_from_slice(&bytes);
            let _ = Hello::from_bytes(&hello);
            let _ = printable(&bytes);
        }
    }
}
