// usage: node tus-node.mjs DIR PORT
import http from 'node:http'
import { FileStore } from '@tus/file-store'
import { Server } from '@tus/server'

const [directory, port] = process.argv.slice(2)
const tus = new Server({ path: '/files', datastore: new FileStore({ directory }) })
http.createServer((request, response) => tus.handle(request, response)).listen(Number(port), '127.0.0.1')
