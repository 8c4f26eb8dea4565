//! A feedback loop that runs to a fixed point: which towns are joined by roads, however far apart they are.
//!
//! ```text
//! cargo run --release --example fixed_point
//! ```
//!
//! prints
//!
//! ```text
//! Aachen: Aachen, Bonn, Köln
//! Bremen: Bremen, Hamburg, Kiel, Lübeck
//! ```
//!
//! Each town takes the first name that it hears of, in the order of the alphabet, and tells its neighbours whenever that is news.
//! Nobody counts rounds: the loop ends once no news is under way.

use std::{collections::BTreeMap, error::Error};

use proscenium::{BuildError, Flow, Job, LocalEnvironment};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Regions {
    roads: Vec<(String, String)>,
}

impl Job for Regions {
    const NAME: &'static str = "regions";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let mut neighbours: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (a, b) in &self.roads {
            neighbours.entry(a.clone()).or_default().push(b.clone());
            neighbours.entry(b.clone()).or_default().push(a.clone());
        }
        // At first each town has heard of itself.
        let towns: Vec<String> = neighbours.keys().cloned().collect();
        let parallelism = flow.parallelism();
        flow.from_batch(towns.into_iter().map(|town| (town.clone(), town)))
            .rebalance(parallelism)
            .iterate("names", |heard| {
                let news = heard
                    .key_by(|(town, _)| town.clone())
                    .map_with_state(None, |town, first: &mut Option<String>, (_, name)| {
                        let is_news = first.as_ref().is_none_or(|first| name < *first);
                        is_news.then(|| {
                            *first = Some(name.clone());
                            (town.clone(), name)
                        })
                    })
                    .filter_map(|news| news);
                let (tell, out) = news.tee();
                let told = tell.flat_map_into(move |(town, name): (String, String), told| {
                    told.extend(neighbours[&town].iter().map(|neighbour| (neighbour.clone(), name.clone())));
                });
                (told, out)
            })
            // The last that a town told is the first name of its region.
            .key_by(|(town, _)| town.clone())
            .reduce(|first, next| *first = first.clone().min(next))
            .map(|(town, (_, name))| (name, town))
            .collect("regions");
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let roads =
        [("Köln", "Bonn"), ("Aachen", "Köln"), ("Kiel", "Hamburg"), ("Lübeck", "Hamburg"), ("Bremen", "Hamburg")];
    let roads = roads.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec();
    let env = LocalEnvironment::new("roads");
    let job = env.submit(Regions { roads }).autostop(true).blocking()?;
    let mut regions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, town) in job.output::<(String, String)>("regions").blocking()? {
        regions.entry(name).or_default().push(town);
    }
    let lines: Vec<String> = regions
        .into_iter()
        .map(|(name, mut towns)| {
            towns.sort();
            format!("{name}: {}", towns.join(", "))
        })
        .collect();
    println!("{}", lines.join("\n"));
    assert_eq!(lines, ["Aachen: Aachen, Bonn, Köln", "Bremen: Bremen, Hamburg, Kiel, Lübeck"]);
    Ok(())
}
