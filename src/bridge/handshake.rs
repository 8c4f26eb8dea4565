//! How the two sides of a new stream make sure of each other.
//!
//! ```text
//!  client                                   node
//!    hello (64 bytes) ------------------->
//!                     <-------------------  ACCEPT, hello (64 bytes)      or REFUSE, length, text
//!    proof (32 bytes) ------------------->
//!                     <-------------------  ACCEPT, proof (32 bytes)      or REFUSE, length, text
//!    frames           <------------------>  frames
//! ```
//!
//! The client proves first, so a node tells a stranger nothing that was made with the key. Neither side decodes
//! anything that is not of fixed length before it has verified the other, but for the text of a refusal, which is
//! limited and shown as the peer's own words. There is no time limit in here: the callers have one.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    hello::{HELLO_BYTES, Hello, HelloError, MAGIC, PROOF_BYTES, REFUSAL_BYTES_MAX, Role, Transcript, printable},
    key::Key,
};

const ACCEPT: u8 = 1;
const REFUSE: u8 = 2;

/// The other side, of which it is now known that it has the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    /// The node's incarnation, or the client's number.
    pub who: u128,
}

/// The client's part.
pub(super) async fn connect<S>(stream: &mut S, key: &Key, client: u128, binding: &[u8]) -> Result<Peer, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    connect_with(stream, key, Hello::new(client, nonce()?), binding).await
}

async fn connect_with<S>(stream: &mut S, key: &Key, hello: Hello, binding: &[u8]) -> Result<Peer, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let client = hello.to_bytes();
    send(stream, &client).await?;
    accepted(stream).await?;
    let node = receive::<_, HELLO_BYTES>(stream).await?;
    let said = Hello::from_bytes(&node)?;
    if said.nonce == hello.nonce {
        return Err(HelloError::Reflected);
    }
    let transcript = Transcript { client: &client, node: &node, binding };
    send(stream, &transcript.prove(key, Role::Client)).await?;
    accepted(stream).await?;
    let proof = receive::<_, PROOF_BYTES>(stream).await?;
    if !transcript.verify(key, Role::Node, &proof) {
        return Err(HelloError::WrongKey);
    }
    Ok(Peer { who: said.who })
}

/// The node's part. A peer that is refused is told why.
pub(super) async fn accept<S>(stream: &mut S, key: &Key, incarnation: u128, binding: &[u8]) -> Result<Peer, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    accept_with(stream, key, Hello::new(incarnation, nonce()?), binding).await
}

async fn accept_with<S>(stream: &mut S, key: &Key, hello: Hello, binding: &[u8]) -> Result<Peer, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    // A stranger that waits for an answer to its own first bytes gets one, rather than waiting with us for more.
    let mut client = [0; HELLO_BYTES];
    for at in 0..MAGIC.len() {
        client[at] = receive::<_, 1>(stream).await?[0];
        if client[at] != MAGIC[at] {
            refuse(stream, "this is a proscenium node, and what came is not its protocol").await;
            return Err(HelloError::NotProscenium);
        }
    }
    let rest = receive::<_, { HELLO_BYTES - MAGIC.len() }>(stream).await?;
    client[MAGIC.len()..].copy_from_slice(&rest);
    let said = match Hello::from_bytes(&client) {
        Ok(said) => said,
        Err(error) => {
            refuse(stream, &from_there(&error)).await;
            return Err(error);
        }
    };
    let node = hello.to_bytes();
    send(stream, &[&[ACCEPT], &node[..]].concat()).await?;
    let transcript = Transcript { client: &client, node: &node, binding };
    let proof = receive::<_, PROOF_BYTES>(stream).await?;
    if !transcript.verify(key, Role::Client, &proof) {
        let text = "the key differs from the node's: give the client the node's key, by a key file or PROSCENIUM_KEY";
        refuse(stream, text).await;
        return Err(HelloError::WrongKey);
    }
    send(stream, &[&[ACCEPT], &transcript.prove(key, Role::Node)[..]].concat()).await?;
    Ok(Peer { who: said.who })
}

/// The same difference, as the other side sees it.
fn from_there(error: &HelloError) -> String {
    match *error {
        HelloError::Version { here, there } => HelloError::Version { here: there, there: here }.to_string(),
        HelloError::Codec { here, there } => HelloError::Codec { here: there, there: here }.to_string(),
        ref other => other.to_string(),
    }
}

fn nonce() -> Result<[u8; 32], HelloError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| HelloError::Io(error.to_string()))?;
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
