//! A web service that embeds a long-lived job: handlers push requests into the job's input and call its services.
//!
//! ```text
//! cargo run --release --example http_service
//! ```
//!
//! `POST /orders/{article}` hands an order to the job, which books it with its service `stock`; `GET /stock/{article}`
//! asks that service. The example is its own client, on a port that the system chooses. It prints
//!
//! ```text
//! POST /orders/tea -> 202
//! POST /orders/tea -> 202
//! POST /orders/ham -> 202
//! GET /stock/tea -> 200 sold 2
//! completed
//! ```

use std::{collections::HashMap, error::Error, net::SocketAddr};

use actix::{Actor, Context, Handler, Message};
use axum::{Router, extract::Path, extract::State, http::StatusCode, routing::get, routing::post};
use proscenium::{BuildError, Flow, Job, JobHandle, JobState, LocalEnvironment, MessageTable, Service};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

#[derive(Default)]
struct Stock(HashMap<String, u64>);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "()")]
struct Book(String);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "u64")]
struct Sold(String);

impl Actor for Stock {
    type Context = Context<Self>;
}

impl Service for Stock {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Book>("book").accept::<Sold>("sold");
    }
}

impl Handler<Book> for Stock {
    type Result = ();

    fn handle(&mut self, Book(article): Book, _: &mut Context<Self>) {
        *self.0.entry(article).or_default() += 1;
    }
}

impl Handler<Sold> for Stock {
    type Result = u64;

    fn handle(&mut self, Sold(article): Sold, _: &mut Context<Self>) -> u64 {
        self.0.get(&article).copied().unwrap_or_default()
    }
}

#[derive(Serialize, Deserialize)]
struct Shop;

impl Job for Shop {
    const NAME: &'static str = "shop";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("stock", Stock::default);
        flow.from_channel::<String>("orders")
            .for_each_async(16, async |ctx, article| Ok(ctx.service::<Stock>("stock")?.call(Book(article)).await?));
        Ok(())
    }
}

async fn order(State(job): State<JobHandle>, Path(article): Path<String>) -> Result<StatusCode, StatusCode> {
    let sent = job.input("orders").send(article).await;
    sent.map(|()| StatusCode::ACCEPTED).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

async fn sold(State(job): State<JobHandle>, Path(article): Path<String>) -> Result<String, StatusCode> {
    let sold = job.service::<Stock>("stock").call(Sold(article)).await;
    sold.map(|sold| format!("sold {sold}")).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

/// The status code and body that a request is answered with.
async fn request(server: SocketAddr, what: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(format!("{what} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("an answer without a body")?;
    let code = head.split(' ').nth(1).ok_or("an answer without a status")?;
    println!("{what} -> {}", format!("{code} {body}").trim_end());
    Ok(format!("{code} {body}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let env = LocalEnvironment::new("shop");
    let job = env.submit(Shop).await?;
    let routes = Router::new().route("/orders/{article}", post(order)).route("/stock/{article}", get(sold));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (close, closed) = oneshot::channel::<()>();
    let server =
        axum::serve(listener, routes.with_state(job.clone())).with_graceful_shutdown(async { drop(closed.await) });
    let server = tokio::spawn(server.into_future());

    for article in ["tea", "tea", "ham"] {
        assert_eq!(request(address, &format!("POST /orders/{article}")).await?, "202 ");
    }
    // Accepted is not booked: the tasks have worked off all orders once the job is idle.
    job.input::<String>("orders").finish().await?;
    let mut changes = job.watch();
    while let Some(status) = changes.next().await {
        if status?.state == JobState::Idle {
            break;
        }
    }
    assert_eq!(request(address, "GET /stock/tea").await?, "200 sold 2");

    job.stop().await?;
    let outcome = job.wait().await?;
    println!("{outcome}");
    assert!(outcome.is_completed());
    drop(close);
    server.await??;
    env.close().await;
    Ok(())
}
