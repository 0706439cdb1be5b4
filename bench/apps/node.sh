exec node node.js
