// @tus/server on 127.0.0.1: node tus_node_server.mjs PORT DIRECTORY
// Lies beside node_modules when it runs; modules are looked for from there.
import { FileStore } from '@tus/file-store'
import { Server } from '@tus/server'

const [port, directory] = process.argv.slice(2)
const server = new Server({ path: '/files/', datastore: new FileStore({ directory }) })
server.listen({ host: '127.0.0.1', port })
