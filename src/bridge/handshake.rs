//! How the two sides of a new stream make sure of each other.
//!
//! ```text
//!  client                                   node
//!    hello (80 bytes) ------------------->
//!                     <-------------------  ACCEPT, hello (64 bytes)      or REFUSE, length, text
//!    TLS 1.3          <------------------>  TLS 1.3                       if either hello needs encryption
//!    proof (32 bytes) ------------------->
//!                     <-------------------  ACCEPT, proof (32 bytes)      or REFUSE, length, text
//!    frames           <------------------>  frames
//! ```
//!
//! Both hellos are said in the clear, so that peers of different versions always understand each other so far. That
//! neither was changed on the way, the bit *needs encryption* above all, shows by the proofs, which cover both, and what
//! the two ends of the encryption have in common.
//!
//! The client proves first, so a node tells a stranger nothing that was made with the key. Neither side decodes
//! anything that is not of fixed length before it has verified the other, but for TLS, and the text of a refusal, which
//! is limited and shown as the peer's own words. There is no time limit in here: the callers have one.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    encryption::{ClientEncryption, NodeEncryption, Sealed},
    frame::Integrity,
    hello::{
        CLIENT_HELLO_BYTES, HELLO_BYTES, Hello, HelloError, KEY_UNKNOWN, MAGIC, PROOF_BYTES, REFUSAL_BYTES_MAX, Role,
        Transcript, printable,
    },
    key::{Key, KeyId},
    keyring::{Identity, KeyRing},
    stream::{Dialled, Reach, Stream},
};
use crate::host::Host;

const ACCEPT: u8 = 1;
const REFUSE: u8 = 2;

/// With which TLS begins: a handshake, and an alert.
const TLS_HANDSHAKE: u8 = 0x16;
const TLS_ALERT: u8 = 0x15;

/// What TLS says to a peer of another version: a fatal alert, `protocol_version`.
const TLS_OTHER_VERSION: [u8; 7] = [TLS_ALERT, 3, 3, 0, 2, 2, 70];

/// The other side, of which it is now known that it has the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    /// The node's incarnation, or the client's number.
    pub who: u128,
}

/// A connection over which frames can go, and to whom: a [`Peer`], or one that came, and by which key.
pub(super) struct Established<P> {
    pub peer: P,
    pub stream: Box<dyn Stream>,
    pub integrity: Integrity,
}

/// What a client brings along.
pub(super) struct ClientSide<'a> {
    pub key: &'a Key,
    pub client: u128,
    pub encryption: &'a ClientEncryption,
    pub host: &'a Host,
}

impl ClientSide<'_> {
    /// The client's part.
    pub(super) async fn connect(&self, dialled: Dialled) -> Result<Established<Peer>, HelloError> {
        self.connect_as(Hello::new(self.client, nonce(self.host)?), dialled).await
    }

    async fn connect_as(&self, hello: Hello, dialled: Dialled) -> Result<Established<Peer>, HelloError> {
        let Dialled { mut stream, reach, .. } = dialled;
        let hello = hello
            .needing_encryption(self.encryption.is_needed(reach) || self.key.pin().is_some())
            .wanting_certificate(self.encryption.wants_certificate());
        let client = hello.with_key(self.key.id());
        send(&mut stream, &client).await?;
        accepted(&mut stream).await?;
        let node = receive::<_, HELLO_BYTES>(&mut stream).await?;
        let said = Hello::from_bytes(&node)?;
        if said.nonce == hello.nonce {
            return Err(HelloError::Reflected);
        }
        let encrypted = hello.needs_encryption() || said.needs_encryption();
        let sealed =
            if encrypted { self.encryption.seal(stream, self.key.pin()).await? } else { Sealed::clear(stream) };
        let Sealed { mut stream, binding, integrity } = sealed;
        let transcript = Transcript { client: &client, node: &node, binding: &binding };
        send(&mut stream, &transcript.prove(self.key, Role::Client)).await?;
        accepted(&mut stream).await?;
        let proof = receive::<_, PROOF_BYTES>(&mut stream).await?;
        if !transcript.verify(self.key, Role::Node, &proof) {
            return Err(HelloError::WrongKey);
        }
        Ok(Established { peer: Peer { who: said.who }, stream, integrity })
    }
}

/// The keys that a side knows to which others connect.
pub(super) trait Keys {
    /// What a key tells of who has it.
    type Identity;

    /// The key of this id and whose it is; for an id that is not known some other key, and nobody.
    fn find(&self, id: KeyId) -> (Key, Option<Self::Identity>);
}

impl Keys for KeyRing {
    type Identity = Identity;

    fn find(&self, id: KeyId) -> (Key, Option<Identity>) {
        self.find(id)
    }
}

/// What a node brings along.
pub(super) struct NodeSide<'a, K> {
    pub keys: &'a K,
    pub incarnation: u128,
    pub encryption: &'a NodeEncryption,
    pub host: &'a Host,
}

/// Why a peer was not let in, and the stream to it, if it may have to read that yet.
pub(super) type TurnedAway = (HelloError, Option<Box<dyn Stream>>);

/// What a client said, and what it was answered.
struct Greeting {
    said: Hello,
    key: KeyId,
    client: [u8; CLIENT_HELLO_BYTES],
    node: [u8; HELLO_BYTES],
    encrypted: bool,
}

impl<K: Keys> NodeSide<'_, K> {
    /// The node's part. A peer that is refused is told why.
    pub(super) async fn accept(&self, dialled: Dialled) -> Result<Established<(Peer, K::Identity)>, TurnedAway> {
        let hello = Hello::new(self.incarnation, nonce(self.host).map_err(|error| (error, None))?);
        self.accept_as(hello, dialled).await
    }

    async fn accept_as(&self, hello: Hello, dialled: Dialled) -> Result<Established<(Peer, K::Identity)>, TurnedAway> {
        let Dialled { mut stream, reach, .. } = dialled;
        let hello = hello.needing_encryption(self.encryption.is_needed(reach));
        let greeting = match self.greet(&mut stream, hello, reach).await {
            Ok(greeting) => greeting,
            Err(error) => return Err((error, Some(stream))),
        };
        let sealed = match greeting.encrypted {
            // A place of its own, as most strangers do not come to it.
            true => Box::pin(self.encryption.seal(stream, &greeting.said)).await.map_err(|error| (error, None))?,
            false => Sealed::clear(stream),
        };
        let Sealed { mut stream, binding, integrity } = sealed;
        match self.verify(&mut stream, &greeting, &binding).await {
            Ok(peer) => Ok(Established { peer, stream, integrity }),
            Err(error) => Err((error, Some(stream))),
        }
    }

    async fn greet(&self, stream: &mut Box<dyn Stream>, hello: Hello, reach: Reach) -> Result<Greeting, HelloError> {
        let first = heard(stream).await?;
        let said = match Hello::from_bytes(&first) {
            Ok(said) => said,
            Err(error) => {
                refuse(stream, &from_there(&error)).await;
                return Err(error);
            }
        };
        let key = receive::<_, { KeyId::BYTES }>(stream).await?;
        let encrypted = said.needs_encryption() || hello.needs_encryption();
        let suits = self.encryption.suits(&said, reach);
        let suits = if suits.is_ok() && encrypted { self.encryption.admit(reach, self.host).await } else { suits };
        if let Err(error) = suits {
            refuse(stream, &from_there(&error)).await;
            return Err(error);
        }
        let node = hello.to_bytes();
        send(stream, &[&[ACCEPT], &node[..]].concat()).await?;
        let key = KeyId::of_bytes(key);
        Ok(Greeting { said, key, client: said.with_key(key), node, encrypted })
    }

    async fn verify(
        &self,
        stream: &mut Box<dyn Stream>,
        greeting: &Greeting,
        binding: &[u8],
    ) -> Result<(Peer, K::Identity), HelloError> {
        let Greeting { said, key, client, node, .. } = greeting;
        let transcript = Transcript { client, node, binding };
        let proof = receive::<_, PROOF_BYTES>(stream).await?;
        // A key that is not known is looked at as closely as a wrong proof, and refused with the same words.
        let (key, identity) = self.keys.find(*key);
        let is_proven = transcript.verify(&key, Role::Client, &proof);
        let Some(identity) = identity.filter(|_| is_proven) else {
            refuse(stream, KEY_UNKNOWN).await;
            return Err(HelloError::WrongKey);
        };
        send(stream, &[&[ACCEPT], &transcript.prove(&key, Role::Node)[..]].concat()).await?;
        Ok((Peer { who: said.who }, identity))
    }
}

/// The first 64 bytes of a client. A stranger that waits for an answer to its own first bytes gets one, rather than
/// waiting with us for more.
async fn heard(stream: &mut Box<dyn Stream>) -> Result<[u8; HELLO_BYTES], HelloError> {
    let mut client = [0; HELLO_BYTES];
    for at in 0..MAGIC.len() {
        client[at] = receive::<_, 1>(stream).await?[0];
        if at == 0 && client[0] == TLS_HANDSHAKE {
            // As clients of version 1 with a certificate to trust do.
            let _ = send(stream, &TLS_OTHER_VERSION).await;
            return Err(HelloError::Tls);
        }
        if client[at] != MAGIC[at] {
            refuse(stream, "this is a proscenium node, and what came is not its protocol").await;
            return Err(HelloError::NotProscenium);
        }
    }
    let rest = receive::<_, { HELLO_BYTES - MAGIC.len() }>(stream).await?;
    client[MAGIC.len()..].copy_from_slice(&rest);
    Ok(client)
}

/// The same difference, as the other side sees it.
fn from_there(error: &HelloError) -> String {
    match *error {
        HelloError::Version { here, there } => HelloError::Version { here: there, there: here }.to_string(),
        HelloError::Codec { here, there } => HelloError::Codec { here: there, there: here }.to_string(),
        #[cfg(not(feature = "tls"))]
        HelloError::CannotEncrypt => {
            "the connection has to be encrypted, and the node was built without the feature `tls`".to_owned()
        }
        #[cfg(feature = "tls")]
        HelloError::NoCertificate => {
            "the node has no certificate: connect without one to trust, or start the node with one".to_owned()
        }
        #[cfg(feature = "tls")]
        HelloError::TooManyHandshakes => {
            "too many encrypted connections were begun from your network: try again".to_owned()
        }
        ref other => other.to_string(),
    }
}

fn nonce(host: &Host) -> Result<[u8; 32], HelloError> {
    let mut nonce = [0; 32];
    host.fill(&mut nonce).map_err(|error| HelloError::Io(error.to_string()))?;
    Ok(nonce)
}

async fn send<S: AsyncWrite + Unpin + ?Sized>(stream: &mut S, bytes: &[u8]) -> Result<(), HelloError> {
    stream.write_all(bytes).await.map_err(failed)?;
    stream.flush().await.map_err(failed)
}

async fn receive<S: AsyncRead + Unpin + ?Sized, const N: usize>(stream: &mut S) -> Result<[u8; N], HelloError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(failed)?;
    Ok(bytes)
}

fn failed(error: io::Error) -> HelloError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => HelloError::Closed,
        _ => HelloError::Io(error.to_string()),
    }
}

/// Reads the node's verdict.
async fn accepted<S: AsyncRead + Unpin + ?Sized>(stream: &mut S) -> Result<(), HelloError> {
    match receive::<_, 1>(stream).await? {
        [ACCEPT] => Ok(()),
        [TLS_ALERT] => Err(HelloError::Tls),
        [REFUSE] => {
            let length = usize::from(u16::from_le_bytes(receive::<_, 2>(stream).await?));
            let mut text = vec![0; length.min(REFUSAL_BYTES_MAX)];
            stream.read_exact(&mut text).await.map_err(failed)?;
            Err(HelloError::Refused(printable(&text)))
        }
        _ => Err(HelloError::NotProscenium),
    }
}

async fn refuse<S: AsyncWrite + Unpin + ?Sized>(stream: &mut S, text: &str) {
    let text = &text.as_bytes()[..text.len().min(REFUSAL_BYTES_MAX)];
    let length = u16::try_from(text.len()).expect("a refusal's text is short");
    let refusal = [&[REFUSE], &length.to_le_bytes()[..], text].concat();
    // A peer that does not listen is not told.
    let _ = send(stream, &refusal).await;
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests;
