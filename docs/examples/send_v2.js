// Sends one measurement of signature version 2 with mqtt.js: node send_v2.js config.json dht22
const { createHmac } = require('node:crypto')
const { readFileSync } = require('node:fs')
const mqtt = require('mqtt')

const [, , path, component] = process.argv
const config = JSON.parse(readFileSync(path, 'utf8'))
const encode = (object) => Buffer.from(JSON.stringify(object)).toString('base64url')

function sign(message) {
  const signed = `${encode({ alg: 'HS256', kid: String(config.kid) })}.${encode(message)}`
  return `${signed}.${createHmac('sha256', config.secret).update(signed).digest('base64url')}`
}

const boot = Math.floor(Date.now() / 1000) // stored on disk by a real device, and counted up at each start
const session = `${boot}-1`
const client = mqtt.connect({
  host: config.host,
  port: config.port,
  username: config.uuid,
  password: config.mqtt_password,
  clientId: config.uuid,
  protocolVersion: 4,
  clean: false,
  keepalive: 30,
  // The library would register the same will again: make a new client, with a new session, for each connection.
  reconnectPeriod: 0,
  will: {
    topic: `device/lwt/${config.uuid}`,
    payload: JSON.stringify({ device_uuid: config.uuid, status: 'OFFLINE', session }),
    qos: 1
  }
})

client.on('error', (error) => {
  console.error(error.message)
  process.exit(1)
})
client.on('connect', async () => {
  const timestamp = new Date().toISOString()
  const birth = { device_uuid: config.uuid, session, timestamp }
  await client.publishAsync(`device/birth/${config.uuid}`, sign(birth), { qos: 1 })
  const message = { timestamp, device_uuid: config.uuid, component, boot, seq: 1, value: { temp: 21.5, humidity: 44 } }
  await client.publishAsync(`telemetry/${config.tenant}/${config.uuid}/${component}`, sign(message), { qos: 1 })
  console.log('acknowledged')
  client.end()
})
