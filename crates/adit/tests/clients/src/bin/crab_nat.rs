//! crab_nat: PCP or NAT-PMP.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use adit_test_clients::{Outcome, argument, serve};
use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType,
    TimeoutConfig, natpmp,
};

fn main() -> Outcome<()> {
    let gateway = match argument(1)? {
        IpAddr::V4(gateway) => GatewayAddress::IpV4(gateway),
        IpAddr::V6(gateway) => GatewayAddress::IpV6(gateway, None),
    };
    let own: IpAddr = argument(2)?;
    let port: NonZeroU16 = argument(3)?;
    let mechanism: String = argument(4)?;
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(600),
        timeout_config: Some(TimeoutConfig {
            initial_timeout: Duration::from_millis(500),
            max_retries: 2,
            max_retry_timeout: None,
        }),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut held = None;
    serve(|word| {
        runtime.block_on(async {
            match word {
                "open" => {
                    let protocol = InternetProtocol::Tcp;
                    let mapping = if mechanism == "nat-pmp" {
                        natpmp::port_mapping(gateway, protocol, port, options).await?
                    } else {
                        PortMapping::new(gateway, own, protocol, port, options).await?
                    };
                    let told = describe(&mapping);
                    held = Some(mapping);
                    Ok(told)
                }
                "renew" => {
                    let mapping = held.as_mut().ok_or("nothing is held")?;
                    mapping.renew().await?;
                    Ok(describe(mapping))
                }
                "close" => {
                    let mapping = held.take().ok_or("nothing is held")?;
                    mapping.try_drop().await.map_err(|(error, _)| error)?;
                    Ok("closed".to_owned())
                }
                other => Err(format!("what is {other}?").into()),
            }
        })
    })
}

fn describe(mapping: &PortMapping) -> String {
    let mechanism = match mapping.mapping_type() {
        PortMappingType::NatPmp => "nat-pmp",
        PortMappingType::Pcp { .. } => "pcp",
    };
    format!("{} {mechanism}", mapping.external_port())
}
