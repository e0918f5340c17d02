//! igd-next: UPnP, found by searching from the device's own address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_test_clients::{Outcome, argument, serve};
use igd_next::{PortMappingProtocol, SearchOptions, search_gateway};

const TCP: PortMappingProtocol = PortMappingProtocol::TCP;

fn main() -> Outcome<()> {
    let own: IpAddr = argument(2)?;
    let port: u16 = argument(3)?;
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::new(own, 0);
    options.timeout = Some(Duration::from_secs(5));
    let gateway = search_gateway(options)?;
    let inside = SocketAddr::new(own, port);
    let mut external = port;
    serve(|word| match word {
        "open" => {
            external = gateway.add_any_port(TCP, inside, 600, "igd-next")?;
            Ok(format!("{external} upnp"))
        }
        "renew" => {
            gateway.add_port(TCP, external, inside, 600, "igd-next")?;
            Ok(format!("{external} upnp"))
        }
        "close" => {
            gateway.remove_port(TCP, external)?;
            Ok("closed".to_owned())
        }
        other => Err(format!("what is {other}?").into()),
    })
}
