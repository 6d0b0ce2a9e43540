// One line to standard output for each thing that is tried; README.md in the folder above says what it is read by.
let failed = 0;

export async function tried(name, what) {
  try {
    await what();
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`failed ${name}: ${String(error?.stack ?? error).split('\n').slice(0, 2).join(' ')}`);
  }
}

export function done() {
  process.exit(failed ? 1 : 0);
}
