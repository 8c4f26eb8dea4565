//! A gate that a test holds and user code of a job waits at, in whichever process it runs.

use std::{
    io::{Read, Write},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::deadline;

/// The test's side. Once it is dropped, everybody passes.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
}

/// The job's side; a parameter of the job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Doorway {
    address: SocketAddr,
}

/// Somebody who waits at the door, until this is dropped.
#[derive(Debug)]
pub struct Visitor {
    name: String,
    _stream: TcpStream,
}

impl Door {
    pub async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("a port is free") }
    }

    pub fn way(&self) -> Doorway {
        Doorway { address: self.listener.local_addr().expect("it is bound") }
    }

    /// The next one who comes.
    pub async fn arrival(&self) -> Visitor {
        deadline("an arrival at the door", async {
            let (mut stream, _) = self.listener.accept().await.expect("the door is there");
            let length = stream.read_u8().await.expect("the visitor says its name");
            let mut name = vec![0; length.into()];
            stream.read_exact(&mut name).await.expect("the visitor says its name");
            Visitor { name: String::from_utf8(name).expect("names are text"), _stream: stream }
        })
        .await
    }

    /// The next one who comes, which has to be `name`.
    pub async fn arrival_of(&self, name: &str) -> Visitor {
        let visitor = self.arrival().await;
        assert_eq!(visitor.name(), name);
        visitor
    }

    /// The next `count` who come, all still waiting.
    pub async fn arrivals(&self, count: usize) -> Vec<Visitor> {
        let mut visitors = Vec::new();
        while visitors.len() < count {
            visitors.push(self.arrival().await);
        }
        visitors
    }
}

impl Visitor {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets the visitor pass.
    pub fn admit(self) {
        drop(self);
    }
}

impl Doorway {
    /// Waits until the test lets `name` pass. For async user code.
    pub async fn pass(&self, name: impl ToString) {
        // Refused or reset: the test is over, and the door open.
        let Ok(mut stream) = TcpStream::connect(self.address).await else { return };
        if stream.write_all(&introduction(&name.to_string())).await.is_ok() {
            let _ = stream.read_u8().await;
        }
    }

    /// As [`pass`](Self::pass), and blocks the thread. For user code that is busy for long.
    pub fn pass_blocking(&self, name: impl ToString) {
        let Ok(mut stream) = std::net::TcpStream::connect(self.address) else { return };
        if stream.write_all(&introduction(&name.to_string())).is_ok() {
            let _ = stream.read(&mut [0]);
        }
    }
}

fn introduction(name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("names are short");
    [&[length], name.as_bytes()].concat()
}
