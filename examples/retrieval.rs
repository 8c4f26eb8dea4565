//! A retrieval pipeline that is a service, behind HTTP: a job reads a text into an index, and a pipeline of operators answers queries.
//!
//! ```text
//! cargo run --release --example retrieval
//! ```
//!
//! prints, being its own client:
//!
//! ```text
//! GET /search/milk-and-honey -> 200 Deu26:9 And he hath brought us into this place, and hath given us this land, even a la [..]
//! GET /search/locomotive -> 404
//! completed, 2 queries
//! ```

use std::{cmp::Reverse, collections::HashMap, error::Error, net::SocketAddr};

use actix::{Actor, Context, Handler, Message};
use axum::{Router, extract::Path, extract::State, http::StatusCode, routing::get};
use proscenium::{
    BuildError, Flow, Job, JobHandle, JobState, LocalEnvironment, MessageTable, NoReply, PipelineService, Service,
    TextFile,
};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpListener, net::TcpStream};

/// Which passages have a word.
#[derive(Default)]
struct Index(HashMap<String, Vec<String>>);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "()")]
struct Add(String);

/// Answered with the passages that have at least one of the words.
#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "Vec<String>")]
struct Find(Vec<String>);

/// A query, as the pipeline takes it.
#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "Result<String, NoReply>")]
struct Query(String);

impl Actor for Index {
    type Context = Context<Self>;
}

impl Service for Index {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Add>("add").accept::<Find>("find");
    }
}

impl Handler<Add> for Index {
    type Result = ();

    fn handle(&mut self, Add(passage): Add, _: &mut Context<Self>) {
        for word in words(&passage) {
            self.0.entry(word).or_default().push(passage.clone());
        }
    }
}

impl Handler<Find> for Index {
    type Result = Vec<String>;

    fn handle(&mut self, Find(words): Find, _: &mut Context<Self>) -> Vec<String> {
        words.iter().filter_map(|word| self.0.get(word)).flatten().cloned().collect()
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 2).map(str::to_lowercase).collect()
}

#[derive(Serialize, Deserialize)]
struct Retrieval;

impl Job for Retrieval {
    const NAME: &'static str = "retrieval";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("index", Index::default);
        flow.pipeline_service("search", |queries| {
            queries
                .map(|Query(text)| words(&text))
                .map_async(16, async |ctx, words: Vec<String>| {
                    let found = ctx.service::<Index>("index")?.call(Find(words.clone())).await?;
                    Ok((words, found))
                })
                .rebalance(2)
                // The shortest of the passages that have most of the words; where none has any, the caller is told that there is no
                // reply. They are sorted, for the index has them in any order: several instances read the text at the same time.
                .filter_map(|(words, mut found)| {
                    let score = |passage: &String| {
                        let has = self::words(passage);
                        words.iter().filter(|word| has.contains(word)).count()
                    };
                    found.sort_unstable();
                    found.into_iter().min_by_key(|passage| (Reverse(score(passage)), passage.len()))
                })
        });
        flow.from_batch(TextFile::lines(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/kjv.txt")))
            .for_each_async(64, async |ctx, passage| Ok(ctx.service::<Index>("index")?.tell(Add(passage)).await?));
        Ok(())
    }
}

async fn search(State(job): State<JobHandle>, Path(query): Path<String>) -> Result<String, StatusCode> {
    match job.service::<PipelineService<Query>>("search").call(Query(query)).await {
        Ok(Ok(passage)) => Ok(passage),
        Ok(Err(NoReply)) => Err(StatusCode::NOT_FOUND),
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn request(server: SocketAddr, what: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(format!("{what} HTTP/1.1\r\nhost: search\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("an answer without a body")?;
    let answer = format!("{} {body}", &head["HTTP/1.1 ".len()..][..3]);
    let shown: String = answer.chars().take(90).collect();
    println!("{what} -> {}{}", shown.trim_end(), if shown.len() < answer.len() { " [..]" } else { "" });
    Ok(answer)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let env = LocalEnvironment::new("search");
    // Without autostop the job idles once the text has been read, and its services stay callable.
    let job = env.submit(Retrieval).await?;
    let mut changes = job.watch();
    while let Some(status) = changes.next().await {
        if status?.state == JobState::Idle {
            break;
        }
    }
    let routes = Router::new().route("/search/{query}", get(search));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(axum::serve(listener, routes.with_state(job.clone())).into_future());
    assert!(request(address, "GET /search/milk-and-honey").await?.contains("floweth with milk and honey"));
    assert_eq!(request(address, "GET /search/locomotive").await?, "404 ");
    server.abort();
    job.stop().await?;
    let (outcome, status) = (job.wait().await?, job.status().await?);
    let queries = status.tasks.iter().find(|task| task.name.starts_with("requests")).map(|task| task.counters.items_in);
    println!("{outcome}, {} queries", queries.unwrap_or_default());
    assert!(outcome.is_completed());
    Ok(())
}
