// @achingbrain/nat-port-mapper: UPnP or NAT-PMP. Arguments: the gateway's address, the device's own, the port of both sides,
// and `upnp` or `nat-pmp`.

import { createInterface } from 'node:readline'
import { pmpNat, upnpNat } from '@achingbrain/nat-port-mapper'

const [server, own, portText, mechanism] = process.argv.slice(1)
const port = Number(portText)
const options = { autoRefresh: false }

async function find () {
  if (mechanism === 'nat-pmp') {
    return pmpNat(server, options)
  }
  for await (const found of upnpNat(options).findGateways({ signal: AbortSignal.timeout(10_000) })) {
    if (found.host === server) {
      return found
    }
  }
  throw new Error('nobody answers')
}

const gateway = await find()
for await (const word of createInterface({ input: process.stdin })) {
  if (word === 'close') {
    await gateway.unmap(port)
    console.log('closed')
  } else {
    const mapping = await gateway.map(port, own, { ...options, protocol: 'TCP' })
    console.log(`${mapping.externalPort} ${mechanism} ${mapping.externalHost}`)
  }
}
await gateway.stop()
process.exit(0)
