// usage: node tus-js-client.cjs ENDPOINT FILE FILENAME [OPTIONS]
//
// Uploads FILE, taking it up again after every failure, and prints the upload's URL and how often
// it had to try again. Without OPTIONS, the client's own in JSON, it is sent in one PATCH.
//
// Where the client has to tell which request is the last one, the file is given as a buffer: from
// a stream of a file, tus-js-client 4.3.1 takes no other for the last one than the first.
'use strict'

const fs = require('node:fs')
const tus = require('tus-js-client')

const [endpoint, file, filename, given] = process.argv.slice(2)
const options = JSON.parse(given ?? '{}')
const tellsTheLast = options.protocol !== undefined || options.uploadLengthDeferred
const source = tellsTheLast ? fs.readFileSync(file) : fs.createReadStream(file)
let retries = 0

const upload = new tus.Upload(source, {
  endpoint,
  chunkSize: Infinity,
  retryDelays: new Array(1000).fill(50),
  metadata: { filename },
  ...options,
  // The default refuses to go on when it is told of a 4xx other than 409 and 423; so does this.
  onShouldRetry(error) {
    retries += 1
    const status = error.originalResponse ? error.originalResponse.getStatus() : 0
    return status < 400 || status >= 500 || status === 409 || status === 423
  },
  onError(error) {
    console.error(String(error))
    process.exit(1)
  },
  onSuccess() {
    console.log(JSON.stringify({ url: upload.url, retries }))
  },
})
upload.start()
