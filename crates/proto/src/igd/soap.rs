//! SOAP 1.1 envelopes: calls, answers and faults.

use super::action::Arguments;
use super::fault::Fault;
use super::service::Service;
use super::xml::{Element, Limits, XmlError, escape};

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const CONTROL: &str = "urn:schemas-upnp-org:control-1-0";

/// A call: the service and the name of the action, and its arguments, not looked at yet.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) service: Service,
    pub(crate) name: &'static str,
    pub(crate) arguments: Element,
}

/// Why a body is no call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// Not even an envelope.
    Malformed,
    Fault(Fault),
}

impl From<XmlError> for CallError {
    fn from(_: XmlError) -> Self {
        Self::Malformed
    }
}

/// Reads a call to one of some services.
///
/// `header` is the value of `SOAPAction`. A browser cannot be made to send it by a foreign page, so it is what tells a
/// call from a forged form; it must be there and say the same as the body.
pub(crate) fn read_call(
    services: &[Service],
    header: &str,
    body: &[u8],
) -> Result<Call, CallError> {
    let invalid = CallError::Fault(Fault::InvalidAction);
    let header = header.trim();
    let unquoted = header
        .strip_prefix('"')
        .and_then(|header| header.strip_suffix('"'))
        .unwrap_or(header);
    let (urn, name) = unquoted.split_once('#').ok_or(CallError::Malformed)?;
    let envelope = Element::parse(body, Limits::REQUEST)?;
    let call = content(envelope).ok_or(CallError::Malformed)?;
    let Some(service) = Service::from_urn(urn).filter(|service| services.contains(service)) else {
        return Err(invalid);
    };
    let differs = call.name != name || call.namespace.as_deref().is_some_and(|space| space != urn);
    match service.action(name) {
        Some(row) if !differs => Ok(Call {
            service,
            name: row.name,
            arguments: call,
        }),
        Some(_) | None => Err(invalid),
    }
}

pub(crate) fn write_call(service: Service, name: &str, arguments: &Arguments) -> String {
    envelope(&action(service, name, arguments))
}

pub(crate) fn write_answer(service: Service, name: &str, arguments: &Arguments) -> String {
    envelope(&action(service, &format!("{name}Response"), arguments))
}

pub(crate) fn write_fault(fault: Fault) -> String {
    let (code, words) = fault.told();
    envelope(&format!(
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
         <UPnPError xmlns=\"{CONTROL}\"><errorCode>{code}</errorCode>\
         <errorDescription>{words}</errorDescription></UPnPError></detail></s:Fault>"
    ))
}

/// Reads what a gateway answered: the returned values, or its fault.
pub(crate) fn read_answer(
    service: Service,
    name: &str,
    body: &[u8],
) -> Result<Result<Element, Fault>, XmlError> {
    let content = content(Element::parse(body, Limits::DOCUMENT)?).ok_or(XmlError::Malformed)?;
    if content.name == "Fault" {
        let code = content
            .child("detail")
            .and_then(|detail| detail.child("UPnPError"))
            .and_then(|error| error.text_of("errorCode"))
            .and_then(|code| code.parse().ok());
        return Ok(Err(code.map_or(Fault::ActionFailed, |code| {
            Fault::from_code(service, code)
        })));
    }
    if content.name.strip_suffix("Response") == Some(name) {
        Ok(Ok(content))
    } else {
        Err(XmlError::Malformed)
    }
}

/// What is in the body of an envelope.
fn content(envelope: Element) -> Option<Element> {
    let is_foreign = envelope
        .namespace
        .as_deref()
        .is_some_and(|space| space != ENVELOPE);
    if envelope.name != "Envelope" || is_foreign {
        return None;
    }
    let mut bodies = envelope
        .children
        .into_iter()
        .filter(|child| child.name == "Body");
    let body = bodies.next().filter(|_| bodies.next().is_none())?;
    // The rest may be what a SOAP client refers to from the first (SOAP 1.1 §5.6 calls them independent elements).
    body.children.into_iter().next()
}

fn action(service: Service, name: &str, arguments: &Arguments) -> String {
    let inside: String = arguments
        .iter()
        .map(|(name, value)| format!("<{name}>{}</{name}>", value_text(name, value)))
        .collect();
    format!(
        "<u:{name} xmlns:u=\"{}\">{inside}</u:{name}>",
        service.urn()
    )
}

/// The listing is a document of its own, in which miniupnpc does not look for escapes. It has no `]]>`, because `>` is
/// escaped inside it.
fn value_text(name: &str, value: &str) -> String {
    if name == "NewPortListing" && !value.contains("]]>") {
        format!("<![CDATA[{value}]]>")
    } else {
        escape(value)
    }
}

fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"{ENVELOPE}\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>{body}</s:Body></s:Envelope>\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::{CallError, read_answer, read_call, write_answer, write_call, write_fault};
    use crate::igd::action::{Action, Answer, samples};
    use crate::igd::fault::Fault;
    use crate::igd::service::{Service, Version};

    #[test]
    fn calls_and_answers_survive_the_wire() {
        for (service, action, answer) in samples() {
            let name = action.name();
            let text = write_call(service, name, &action.arguments());
            let header = format!("\"{}#{name}\"", service.urn());
            let call = read_call(&[service], &header, text.as_bytes()).unwrap();
            assert_eq!(call.service, service);
            let read = Action::read(service, call.name, &call.arguments);
            assert_eq!(read.as_ref(), Ok(&action));

            let text = write_answer(service, name, &answer.arguments(&action).unwrap());
            let values = read_answer(service, name, text.as_bytes())
                .unwrap()
                .unwrap();
            let read = Answer::read(&action, &values).unwrap();
            // The end of the connection is told without how long it was there.
            assert_eq!(read, answer, "{action:?}");
        }
    }

    #[test]
    fn faults_survive_the_wire() {
        let service = Service::WanIpConnection(Version::Two);
        for fault in [
            Fault::Conflict,
            Fault::ArrayIndexInvalid,
            Fault::NotAuthorized,
            Fault::OnlyPermanentLeases,
        ] {
            let text = write_fault(fault);
            assert_eq!(read_answer(service, "X", text.as_bytes()), Ok(Err(fault)));
        }
        let text = write_fault(Fault::NoTraffic);
        assert_eq!(
            read_answer(Service::WanIpv6FirewallControl, "X", text.as_bytes()),
            Ok(Err(Fault::NoTraffic))
        );
    }

    #[test]
    fn header_and_body_must_agree() {
        let service = Service::WanIpConnection(Version::One);
        let body = write_call(service, "GetStatusInfo", &Vec::new());
        let read = |header: &str| {
            read_call(&[service], header, body.as_bytes())
                .map(|call| call.name)
                .map_err(|error| format!("{error:?}"))
        };
        let urn = service.urn();
        assert_eq!(
            read(&format!("\"{urn}#GetStatusInfo\"")),
            Ok("GetStatusInfo")
        );
        assert_eq!(read(&format!(" {urn}#GetStatusInfo ")), Ok("GetStatusInfo"));
        let invalid = Err(format!("{:?}", CallError::Fault(Fault::InvalidAction)));
        assert_eq!(read(&format!("\"{urn}#ForceTermination\"")), invalid);
        assert_eq!(read(&format!("\"{urn}#Unheard\"")), invalid);
        let second = Service::WanIpConnection(Version::Two).urn();
        assert_eq!(read(&format!("\"{second}#GetStatusInfo\"")), invalid);
        assert_eq!(read("GetStatusInfo"), Err("Malformed".to_owned()));
    }
}
