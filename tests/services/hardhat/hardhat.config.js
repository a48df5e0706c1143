// All defaults: a block for each transaction, and the accounts that every devnet has.
export default {};
