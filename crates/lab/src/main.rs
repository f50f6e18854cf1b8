//! `lab`: the rehearsal stage as a program. Prints where it listens, one `name address` a line, and runs until it
//! receives SIGINT or SIGTERM.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options, Ports};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
The rehearsal stage: AWS and Puppet simulated on their real wire protocols, on loopback.

Usage: lab [OPTIONS]

  --scene FILE           set this scene (JSON) at the start
  --ports BASE           listen on BASE (control), +1 (AWS), +2 (Lambda), +3 (CA), +4 (PuppetDB),
                         +5 (orchestrator), +6 (classifier and RBAC); 0: any free ports. Default 4560
  --region REGION        the Region that the simulated AWS is. Default eu-west-1
  --puppet FILE          set-up of the simulated Puppet site (JSON)
  --enterprise           the simulated Puppet site is Puppet Enterprise
  --no-puppet            simulate AWS only, for use with a real Puppet
  --secret NAME=FILE     a secret and the file with its text; may be given several times
  --function-timeout S   how many seconds an invoked function may take. Default 60
  --help                 this text
";

/// What the command line asks for.
struct Arguments {
    options: Options,
    scene: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(Arguments { options, scene }) = parse(std::env::args().skip(1))? else {
        print!("{USAGE}");
        return Ok(());
    };
    // Registered before anything is printed, so that a program that waits for the output can stop the lab at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let lab = Lab::start(options).await?;
    if let Some(path) = scene {
        let scene = Scene::from_json(serde_json::from_str(&text_of(&path)?)?);
        let set = scene.and_then(|scene| lab.set_scene(&scene));
        set.with_context(|| format!("cannot set the scene of {}", path.display()))?;
    }
    let endpoints = lab.endpoints();
    println!("control {}", endpoints.control);
    println!("aws {}", endpoints.aws);
    println!("lambda {}", endpoints.runtime);
    if let (Some(ca), Some(puppetdb)) = (&endpoints.ca, &endpoints.puppetdb) {
        println!("ca {ca}");
        println!("puppetdb {puppetdb}");
    }
    if let (Some(orchestrator), Some(classifier)) = (&endpoints.orchestrator, &endpoints.classifier) {
        println!("orchestrator {orchestrator}");
        println!("classifier {classifier}");
    }
    println!("ready eval \"$(curl -s {}/env)\"", endpoints.control);
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// `None`: the usage is to be printed.
fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Option<Arguments>> {
    let mut options = Options { ports: from_base(4560)?, ..Options::default() };
    let mut scene = None;
    let mut enterprise = false;
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let (name, attached) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value =
            || attached.clone().or_else(|| arguments.next()).with_context(|| format!("{name} requires a value"));
        match name.as_str() {
            "--help" | "-h" => return Ok(None),
            "--scene" => scene = Some(PathBuf::from(value()?)),
            "--ports" => options.ports = from_base(value()?.parse().context("--ports requires a number")?)?,
            "--region" => options.region = value()?,
            "--puppet" => {
                let path = PathBuf::from(value()?);
                options.puppet = serde_json::from_str(&text_of(&path)?)
                    .with_context(|| format!("{} is not a set-up of Puppet", path.display()))?;
            }
            "--enterprise" => enterprise = true,
            "--no-puppet" => options.serve_puppet = false,
            "--secret" => {
                let value = value()?;
                let (secret, path) = value.split_once('=').context("--secret requires NAME=FILE")?;
                options.secrets.insert(secret.to_owned(), text_of(&PathBuf::from(path))?.into());
            }
            "--function-timeout" => {
                let seconds = value()?.parse().context("--function-timeout requires a number of seconds")?;
                options.function_timeout = Duration::from_secs(seconds);
            }
            other => bail!("unknown option {other}; lab --help lists them"),
        }
    }
    options.puppet.enterprise |= enterprise;
    Ok(Some(Arguments { options, scene }))
}

fn from_base(base: u16) -> anyhow::Result<Ports> {
    if base == 0 {
        return Ok(Ports::default());
    }
    if base > u16::MAX - 6 {
        bail!("--ports {base} leaves no room for seven ports");
    }
    Ok(Ports {
        control: base,
        aws: base + 1,
        runtime: base + 2,
        ca: base + 3,
        puppetdb: base + 4,
        orchestrator: base + 5,
        classifier: base + 6,
    })
}

fn text_of(path: &PathBuf) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> anyhow::Result<Option<Arguments>> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn seven_ports_follow_the_base() {
        let options = parsed("--ports 5000 --no-puppet").unwrap().unwrap().options;
        assert_eq!((options.ports.control, options.ports.puppetdb, options.ports.classifier), (5000, 5004, 5006));
        assert!(!options.serve_puppet);
        let free = parsed("--ports=0").unwrap().unwrap().options;
        assert_eq!(free.ports, Ports::default());
        assert!(parsed("--ports 65530").is_err());
    }

    #[test]
    fn an_unknown_option_and_a_missing_value_are_named() {
        let message = |line| parsed(line).err().map(|error| error.to_string()).unwrap();
        assert!(message("--port 1").contains("--port"));
        assert!(message("--region").contains("--region"));
    }

    #[test]
    fn help_starts_nothing() {
        assert!(parsed("--region x --help").unwrap().is_none());
    }
}
